"""Prompts: weights and chunks against formulas of the WebUIs, plain ones against diffusers' own encoding."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from controlstack.core.errors import HostError
from controlstack.pipelines.bases import Base
from controlstack.pipelines.clip.chunks import make_chunks
from controlstack.pipelines.clip.emphasis import Words, read_prompt
from controlstack.pipelines.clip.encoding import encode
from controlstack.pipelines.drawing import generate
from controlstack.pipelines.request import Request

SMALL: dict[str, Any] = {"steps": 2, "width": 64, "height": 64, "scheduler": "ddim"}
COMMA = 1


def said(prompt: str) -> list[tuple[str, float]]:
    return [(each.text, round(each.weight, 4)) for each in read_prompt(prompt)]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a cat", [("a cat", 1)]),
        ("", [("", 1)]),
        ("a (cat) sits", [("a ", 1), ("cat", 1.1), (" sits", 1)]),
        ("a ((cat))", [("a ", 1), ("cat", 1.21)]),
        ("a [cat]", [("a ", 1), ("cat", 0.9091)]),
        ("a (cat:1.3)", [("a ", 1), ("cat", 1.3)]),
        ("(a (cat:1.5):0.5)", [("a ", 0.5), ("cat", 0.75)]),
        ("a (cat", [("a ", 1), ("cat", 1.1)]),
        (r"a \(cat\)", [("a (cat)", 1)]),
        ("a: b)", [("a: b)", 1)]),
        ("[a:1.3]", [("a:1.3", 0.9091)]),
        ("a :1.3) b", [("a :1.3) b", 1)]),
    ],
)
def test_weights_are_read_as_the_webui_writes_them(prompt: str, expected: list[tuple[str, float]]) -> None:
    assert said(prompt) == expected


def test_break_begins_a_chunk_and_belongs_to_no_word() -> None:
    assert read_prompt("a BREAK b") == (Words("a"), Words("", breaks=True), Words("b"))
    assert said("a BREAKFAST") == [("a BREAKFAST", 1)]


@pytest.mark.parametrize(("prompt", "reason"), [("a <lora:x:0.8> b", "--lora FILE"), ("(a:1.2.3)", "no weight")])
def test_what_cannot_be_meant_is_said(prompt: str, reason: str) -> None:
    with pytest.raises(HostError, match=reason):
        read_prompt(prompt)


def chunked(tokens: list[int], length: int = 75) -> list[list[int]]:
    return [each.tokens for each in make_chunks([Words("all")], lambda _: tokens, COMMA, length)]


def test_a_long_prompt_is_cut_after_the_last_comma_that_is_near() -> None:
    assert chunked([7] * 75) == [[7] * 75]
    assert chunked([7] * 76) == [[7] * 75, [7]]
    near = [*[7] * 60, COMMA, *[8] * 20]
    assert chunked(near) == [[*[7] * 60, COMMA], [8] * 20]
    far = [*[7] * 50, COMMA, *[8] * 30]
    assert chunked(far) == [[*[7] * 50, COMMA, *[8] * 24], [8] * 6]
    assert chunked([]) == [[]]


def test_a_break_fills_no_chunk_at_the_end() -> None:
    words = [Words("a"), Words("", breaks=True), Words("b", 1.5), Words("", breaks=True)]
    chunks = make_chunks(words, lambda text: [ord(text)], COMMA, 75)
    assert [(each.tokens, each.weights) for each in chunks] == [([97], [1.0]), ([98], [1.5])]


@pytest.mark.parametrize("kind", ["tiny", "xl"])
def test_a_plain_prompt_is_what_diffusers_makes_of_it(kind: str, request: pytest.FixtureRequest) -> None:
    pipeline = request.getfixturevalue(kind).pipeline
    found = encode(pipeline, ["a red star"], "blue")
    names = ["prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds"]
    theirs = pipeline.encode_prompt(
        prompt="a red star", negative_prompt="blue", device=torch.device("cpu"), num_images_per_prompt=1,
        do_classifier_free_guidance=True,
    )  # fmt: skip
    assert all(torch.equal(found[name], each) for name, each in zip(names, theirs, strict=False))
    assert len(found) == len(theirs)


def test_clip_skip_is_the_layer_from_the_end_with_the_last_norm(tiny: Base) -> None:
    pipeline = tiny.pipeline
    found = encode(pipeline, ["a red star"], "", clip_skip=2)["prompt_embeds"]
    encoder, tokenizer = pipeline.text_encoder, pipeline.tokenizer
    ids = tokenizer("a red star", padding="max_length", return_tensors="pt", max_length=tokenizer.model_max_length)
    states = encoder(ids["input_ids"], output_hidden_states=True).hidden_states
    by_hand = getattr(encoder, "text_model", encoder).final_layer_norm(states[-2])
    assert torch.equal(found, by_hand)
    with pytest.raises(HostError, match="clip skip is 99"):
        encode(pipeline, ["a"], "", clip_skip=99)


def test_clip_skip_is_refused_where_it_means_nothing(xl: Base) -> None:
    with pytest.raises(HostError, match="reads one layer of its own"):
        generate(xl, Request(clip_skip=2, **SMALL))


def test_weights_multiply_tokens_and_keep_the_mean(tiny: Base) -> None:
    plain = encode(tiny.pipeline, ["red star"], "")["prompt_embeds"]
    weighted = encode(tiny.pipeline, ["(red:1.4) star"], "")["prompt_embeds"]
    red = len(tiny.pipeline.tokenizer("red", add_special_tokens=False)["input_ids"])
    by_hand = plain.clone()
    by_hand[:, 1 : 1 + red] *= 1.4
    torch.testing.assert_close(weighted, by_hand * (plain.mean() / by_hand.mean()))


def test_chunks_lie_behind_each_other_and_short_prompts_are_filled(tiny: Base) -> None:
    parts = ["red star", "blue circle"]
    both = encode(tiny.pipeline, [" BREAK ".join(parts), "red star"], "")
    alone = [encode(tiny.pipeline, [part], "")["prompt_embeds"] for part in (*parts, "")]
    assert torch.equal(both["prompt_embeds"][:1], torch.cat(alone[:2], dim=1))
    assert torch.equal(both["prompt_embeds"][1:], torch.cat([alone[0], alone[2]], dim=1))
    assert torch.equal(both["negative_prompt_embeds"][:1], torch.cat([alone[2], alone[2]], dim=1))


@pytest.mark.parametrize("kind", ["tiny", "xl"])
def test_a_long_prompt_draws_another_picture_than_its_beginning(kind: str, request: pytest.FixtureRequest) -> None:
    base = request.getfixturevalue(kind)
    long = ", ".join(["a red star on a blue circle"] * 15)
    first, second = (generate(base, Request(prompt=each, **SMALL)).images for each in (long, long[:100]))
    assert not np.array_equal(first, second)
