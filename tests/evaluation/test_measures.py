"""Every measure gives what one computes by hand, or what the reference of its library gives."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from controlstack.core.errors import HintError, MissingDependencyError, ModelError
from controlstack.preprocessors.poses.points import Person, Point, Poses
from controlstack.training.evaluation.measures.clip import Aesthetic, ClipScore, load_clip, load_head
from controlstack.training.evaluation.measures.frechet import Fid, inception
from controlstack.training.evaluation.measures.hints import DepthError, EdgeF1, Segmentation, SoftEdges
from controlstack.training.evaluation.measures.lpips import AlexNet, Lpips, channel_weights, load_lpips
from controlstack.training.evaluation.measures.measure import Image, Sample
from controlstack.training.evaluation.measures.pose import OUTLINE, SIGMAS, PoseOks, oks, similarity
from safetensors.torch import save_file
from torch import Tensor

CPU = torch.device("cpu")


def picture(seed: int, height: int = 40, width: int = 48) -> Image:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def flat(value: int) -> Image:
    return np.full((16, 16, 3), value, np.uint8)


def sample(found: Image, hint: Image) -> Sample:
    return Sample(drawn=found, hint=hint, found=found)


def brightness(image: Image) -> Tensor:
    """One feature of a picture."""
    return torch.tensor([float(image.mean())])


def test_fid_of_two_normal_distributions_is_what_their_means_and_variances_say() -> None:
    measure = Fid(brightness, 1)
    for value in (0, 2):  # mean 1, variance 2
        measure.refer(flat(value))
    for value in (1, 9):  # mean 5, variance 32
        measure.add(Sample(flat(value)))
    assert measure.result()["fid"] == pytest.approx((5 - 1) ** 2 + 2 + 32 - 2 * math.sqrt(2 * 32))


def test_fid_that_goes_on_from_a_state_is_the_same() -> None:
    def features(image: Image) -> Tensor:
        return torch.tensor(image.mean(axis=(0, 1)))

    whole, first, second = (Fid(features, 3) for _ in range(3))
    for seed in range(4):
        for measure in (whole, first):
            measure.refer(picture(seed))
            measure.add(Sample(picture(10 + seed)))
    second.load(first.state())
    for measure in (whole, second):
        measure.add(Sample(picture(99)))
    assert second.result() == whole.result()


def test_fid_of_one_picture_is_refused() -> None:
    measure = Fid(brightness, 1)
    measure.refer(flat(1))
    measure.add(Sample(flat(1)))
    with pytest.raises(HintError, match="got 1 and 1: give 2 or more"):
        measure.result()


def test_inception_without_its_package_or_its_weights_is_told(tmp_path: Path) -> None:
    (tmp_path / "weights.pth").write_bytes(b"none")
    with pytest.raises((MissingDependencyError, ModelError), match="torch-fidelity"):
        inception(tmp_path / "weights.pth")


def test_clip_score_is_a_hundredth_of_torchmetrics(clip_folder: Path) -> None:
    from torchmetrics.functional.multimodal.clip_score import _clip_score_update as clip_score  # before it cuts at 0
    from transformers import CLIPModel, CLIPProcessor

    measure = ClipScore(load_clip(clip_folder, CPU))
    model, processor = CLIPModel.from_pretrained(clip_folder), CLIPProcessor.from_pretrained(clip_folder)

    class Tensors(torch.nn.Module):
        """What torchmetrics expects of a CLIP: embeddings as plain tensors."""

        config = model.config

        def get_image_features(self, pixels: Tensor) -> Tensor:
            return model.get_image_features(pixels).pooler_output

        def get_text_features(self, tokens: Tensor, mask: Tensor) -> Tensor:
            return model.get_text_features(tokens, mask).pooler_output

    pixels = torch.from_numpy(picture(1)).permute(2, 0, 1)
    found = []
    for words in ("a red star on blue", "a green circle on white", "orange", "a square and a cyan triangle on red"):
        ours = measure.add(Sample(picture(1), prompt=words))["clip_score"]
        theirs, _ = clip_score(pixels, words, Tensors(), processor)
        assert ours == pytest.approx(float(theirs.detach()) / 100, abs=1e-5)
        found.append(ours)
    assert np.ptp(found) > 1e-3


def test_pictures_without_words_have_no_clip_score(clip_folder: Path) -> None:
    assert ClipScore(load_clip(clip_folder, CPU)).add(Sample(picture(1), prompt="")) == {}


def test_a_long_caption_is_cut_to_what_clip_reads(clip_folder: Path) -> None:
    measure = ClipScore(load_clip(clip_folder, CPU))
    assert -1 <= measure.add(Sample(picture(1), prompt="red " * 100))["clip_score"] <= 1


def test_the_aesthetic_head_is_linear_in_the_normalised_embedding(clip_folder: Path, tmp_path: Path) -> None:
    clip = load_clip(clip_folder, CPU)
    weight, bias = torch.randn(1, 16), torch.tensor([5.0])
    save_file({"weight": weight, "bias": bias}, tmp_path / "head.safetensors")
    found = Aesthetic(clip, load_head(tmp_path / "head.safetensors", 16)).add(Sample(picture(2)))["aesthetic"]
    embedding = clip.picture(picture(2))
    assert found == pytest.approx(float(weight[0] @ (embedding / embedding.norm()) + 5), abs=1e-5)


def test_a_head_of_several_layers_is_their_composition(tmp_path: Path) -> None:
    one, two = torch.nn.Linear(16, 4), torch.nn.Linear(4, 1)
    state = {
        f"layers.{k}.{name}": each for k, layer in ((0, one), (2, two)) for name, each in layer.state_dict().items()
    }
    torch.save(state, tmp_path / "head.pth")
    weight, bias = load_head(tmp_path / "head.pth", 16)
    x = torch.randn(16)
    assert float(weight @ x + bias) == pytest.approx(float(two(one(x)).detach()), abs=1e-5)


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ({"weight": torch.ones(1, 8), "bias": torch.ones(1)}, "no head from 16 numbers to one"),
        ({"weight": torch.ones(1, 16)}, "no head from 16 numbers to one"),
        ({"conv.weight": torch.ones(1, 16)}, "expected one of LAION's aesthetic heads"),
    ],
)
def test_a_head_for_another_clip_is_refused(state: dict[str, Tensor], said: str, tmp_path: Path) -> None:
    save_file(state, tmp_path / "head.safetensors")
    with pytest.raises(ModelError, match=said):
        load_head(tmp_path / "head.safetensors", 16)


def test_a_folder_that_is_no_clip_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"holds no config\.json"):
        load_clip(tmp_path, CPU)
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ModelError, match="holds no complete CLIP"):
        load_clip(tmp_path, CPU)


def alexnet() -> AlexNet:
    torch.manual_seed(3)
    return AlexNet()


def test_lpips_is_that_of_torchmetrics_on_the_same_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import torchmetrics.functional.image.lpips as reference

    network = alexnet()
    layers: list[torch.nn.Module] = []
    for index in range(12):  # torchvision's order: rectifiers behind all, maxima before the second and the third
        other = torch.nn.MaxPool2d(3, 2) if index in (2, 5) else torch.nn.ReLU()
        layers.append(dict(network.features.items()).get(str(index), other))
    monkeypatch.setattr(reference, "_get_tv_model_features", lambda *_: torch.nn.Sequential(*layers))
    theirs = reference._LPIPS(pretrained=True, net="alex", pnet_rand=True)
    one, other = picture(4, 80, 96), picture(5, 80, 96)
    tensors = [torch.from_numpy(each).permute(2, 0, 1)[None] / 127.5 - 1 for each in (one, other)]
    save_file(
        {f"features.{name}": each for name, each in network.features.state_dict().items()}, tmp_path / "a.safetensors"
    )
    ours = load_lpips(tmp_path / "a.safetensors")
    assert ours(one, other) == pytest.approx(float(theirs(*tensors)), rel=1e-5)
    assert ours(one, other) > 1e-4


def test_lpips_of_a_picture_and_itself_is_0_even_where_it_is_small() -> None:
    assert Lpips(alexnet(), channel_weights())(picture(6, 20, 20), picture(6, 20, 20)) == 0


def test_another_network_than_alexnet_is_refused(tmp_path: Path) -> None:
    save_file({"features.0.weight": torch.ones(4, 3, 3, 3)}, tmp_path / "vgg.safetensors")
    with pytest.raises(ModelError, match="no AlexNet of torchvision"):
        load_lpips(tmp_path / "vgg.safetensors")


def test_edges_are_compared_within_two_pixels() -> None:
    hint = np.zeros((16, 16, 3), np.uint8)
    hint[:, 8] = 255
    near, far = np.roll(hint, 2, axis=1), np.roll(hint, 6, axis=1)
    assert EdgeF1().add(sample(near, hint)) == {"edge_f1": pytest.approx(1)}
    both = np.maximum(near, far)  # half of what was found is right, all of what was wanted is found
    assert EdgeF1().add(sample(both, hint)) == {"edge_f1": pytest.approx(2 * 0.5 / 1.5)}


def test_ssim_is_that_of_scikit_image() -> None:
    from skimage.metrics import structural_similarity

    hint = picture(7)
    found = np.clip(hint.astype(int) // 2 + picture(8) // 2, 0, 255).astype(np.uint8)
    expected = structural_similarity(
        found, hint, channel_axis=2, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255
    )
    values = SoftEdges(Lpips(alexnet(), channel_weights())).add(sample(found, hint))
    assert values["ssim"] == pytest.approx(expected, abs=2e-3)
    assert values["lpips"] > 0
    assert SoftEdges().add(sample(hint, hint)) == {"ssim": pytest.approx(1)}


def test_depth_errors_are_root_mean_squares_before_and_after_the_best_line() -> None:
    ramp = np.repeat(np.linspace(0, 100, 16).astype(np.uint8)[:, None, None], 3, axis=2).repeat(16, axis=1)
    found = DepthError().add(sample(ramp + 51, ramp))
    assert found["depth_rmse"] == pytest.approx(51 / 255)
    assert found["depth_rmse_aligned"] == pytest.approx(0, abs=1e-9)


def colours(labels: np.ndarray) -> Image:
    return np.array([(255, 0, 0), (0, 255, 0), (9, 9, 9)], np.uint8)[labels]


def test_iou_is_averaged_over_the_colours_of_the_whole_set() -> None:
    from torchmetrics.classification import MulticlassJaccardIndex

    rng = np.random.default_rng(9)
    pairs = [tuple(rng.integers(0, 3, (12, 12)) for _ in range(2)) for _ in range(3)]
    whole, first, second = Segmentation(), Segmentation(), Segmentation()
    theirs = MulticlassJaccardIndex(num_classes=3, average="macro")
    for found, hint in pairs:
        whole.add(sample(colours(found), colours(hint)))
        theirs.update(torch.tensor(found), torch.tensor(hint))
    assert whole.result()["mean_iou"] == pytest.approx(float(theirs.compute()))
    first.add(sample(colours(pairs[0][0]), colours(pairs[0][1])))
    second.load(first.state())
    for found, hint in pairs[1:]:
        second.add(sample(colours(found), colours(hint)))
    assert second.result() == whole.result()


def test_iou_and_accuracy_of_a_hand_made_map() -> None:
    hint, found = colours(np.array([[0, 0], [1, 1]])), colours(np.array([[0, 1], [1, 1]]))
    measure = Segmentation()
    assert measure.add(sample(found, hint)) == {"pixel_accuracy": 0.75}
    assert measure.result() == {"mean_iou": pytest.approx((1 / 2 + 2 / 3) / 2)}


def test_hints_of_another_size_are_brought_to_the_pictures() -> None:
    large = colours(np.array([[0, 1], [1, 0]]).repeat(8, 0).repeat(8, 1))
    small = colours(np.array([[0, 1], [1, 0]]).repeat(4, 0).repeat(4, 1))
    assert Segmentation().add(sample(small, large)) == {"pixel_accuracy": 1.0}


def person(*points: tuple[int, float, float]) -> Person:
    body: list[Point | None] = [None] * 18
    for index, x, y in points:
        body[index] = Point(x, y)
    return Person(body=tuple(body))


def test_oks_is_cocos_formula() -> None:
    wanted = person((0, 10, 10), (2, 50, 30), (1, 30, 30))  # nose, right shoulder, and the neck, which does not count
    found = person((0, 13, 14), (1, 0, 0))  # the nose is 5 pixels off, the shoulder is not there
    area = OUTLINE * 40 * 20
    assert oks(wanted, found) == pytest.approx(math.exp(-25 / (2 * area * (2 * 0.026) ** 2)) / 2)
    assert oks(wanted, wanted) == 1
    assert [SIGMAS[index] for index in (0, 2, 4, 10, 14, 17)] == [0.026, 0.079, 0.062, 0.089, 0.025, 0.035]


def test_people_are_matched_once_and_missing_ones_count_as_0() -> None:
    one, two = person((0, 10, 10), (2, 20, 40)), person((0, 80, 10), (2, 90, 40))
    assert similarity([one, two], [two, one]) == 1
    assert similarity([one, two], [one]) == 0.5
    assert similarity([one, two], []) == 0


def test_poses_are_found_in_the_examples_picture_and_in_the_drawn_one() -> None:
    known = {1: Poses(width=100, height=100, people=(person((0, 10, 10), (2, 20, 40)),)), 2: Poses(width=50, height=50)}
    measure = PoseOks(lambda image: known[int(image[0, 0, 0])])
    drawn = np.full((50, 50, 3), 1, np.uint8)  # half as large; the same pose there is the same
    assert measure.add(Sample(drawn, picture=np.full((100, 100, 3), 1, np.uint8))) == {"pose_oks": pytest.approx(1)}
    assert measure.add(Sample(drawn, picture=np.full((50, 50, 3), 2, np.uint8))) == {}
