"""The API over real HTTP: what it gives, and what it refuses."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from skimage import data

pytest.importorskip("gradio_client", reason='needs gradio: pip install "controlstack[page]"')
# gradio's client leaves connections to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

SIDE = 64
SHORT = {"seed": 3, "steps": 4, "width": SIDE, "height": SIDE, "scheduler": "ddim", "guidance": 2.0}


def encoded(pixels: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def pixels_of(text: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))


@pytest.fixture(scope="module")
def client(served: Any) -> Any:
    from gradio_client import Client

    return Client(served.url, verbose=False)


@pytest.fixture(scope="module")
def photo() -> str:
    return encoded(data.astronaut()[::4, ::4])


def unit(photo: str, **said: Any) -> dict[str, Any]:
    return {"image": photo, "preprocessor": "auto", "model": "canny", **said}


def test_a_request_gives_steps_then_pictures_with_their_record(client: Any, photo: str) -> None:
    job = client.submit({**SHORT, "units": [unit(photo, end=0.5)]}, api_name="/generate")
    *steps, last = list(job)
    assert [each["step"] for each in steps] == [1, 2, 3, 4]
    assert last["units"] == [{"unit": 1, "fired": 2, "steps": 4, "seconds": last["units"][0]["seconds"]}]
    assert last["seeds"] == [3]
    assert pixels_of(last["images"][0]).shape == (SIDE, SIDE, 3)
    record = json.loads(Image.open(io.BytesIO(base64.b64decode(last["images"][0]))).info["controlstack"])
    assert record["units"][0]["said"]["end"] == 0.5
    assert "png" in record["units"][0]["said"]["image"]


def test_the_same_request_gives_the_same_picture_and_units_matter(client: Any, photo: str) -> None:
    bare, again, controlled = (
        client.predict({**SHORT, "units": units}, api_name="/generate")["images"][0]
        for units in ([], [], [unit(photo)])
    )
    assert (pixels_of(bare) == pixels_of(again)).all()
    assert (pixels_of(bare) != pixels_of(controlled)).any()


def test_a_hint_is_that_of_the_preprocessor(client: Any, photo: str) -> None:
    given = client.predict(unit(photo, preprocessor="invert", parameters={}), 128, 128, api_name="/preprocess")
    assert (pixels_of(given["hint"]) == 255 - pixels_of(photo)).all()


def test_pictures_are_read_in_the_spellings_of_clients(client: Any, photo: str) -> None:
    broken = "\n".join(photo[i : i + 76] for i in range(0, len(photo), 76))
    for text in (f"DATA:image/png;BASE64,{photo}", broken, photo.rstrip("=").replace("+", "-").replace("/", "_")):
        given = client.predict(unit(text, preprocessor="invert", parameters={}), 128, 128, api_name="/preprocess")
        assert (pixels_of(given["hint"]) == 255 - pixels_of(photo)).all()


def test_what_is_offered_names_models_and_preprocessors(client: Any) -> None:
    offer = client.predict(api_name="/offer")
    fileless = ["reference_adain", "reference_adain+attn", "reference_only"]
    fileless += ["revision_clipvision", "revision_ignore_prompt"]
    assert sorted(each["name"] for each in offer["models"]) == [
        "canny",
        "color",
        "depth",
        "ip-adapter",
        "lllite",
        *fileless,
        "union",
    ]
    assert {"ControlNet", "IP-Adapter"} < {each["family"] for each in offer["models"]}
    canny = next(each for each in offer["preprocessors"] if each["name"] == "canny")
    assert canny["parameters"] == {"low": 100, "high": 200}


@pytest.mark.parametrize(
    "request_of",
    [
        lambda photo, path: {"units": [unit(path)]},
        lambda photo, path: {"units": [unit(photo, effect_mask=path)]},
        lambda photo, path: {"units": [unit(photo, inpaint_mask=path)]},
        lambda photo, path: {"units": [unit(photo, model=path)]},
        lambda photo, path: {"units": [unit({"path": path, "meta": {"_type": "gradio.FileData"}})]},
        lambda photo, path: {"image": path},
        lambda photo, path: {"image": photo, "mask": path},
        lambda photo, path: {"base": path},
    ],
    ids=["picture", "effect mask", "inpaint mask", "model", "file object", "start", "mask", "base"],
)
def test_no_file_of_the_server_can_be_named(client: Any, photo: str, tmp_path: Path, request_of: Any) -> None:
    there = tmp_path / "secret.png"
    Image.fromarray(np.zeros((SIDE, SIDE, 3), np.uint8)).save(there)
    with pytest.raises(
        Exception, match=r"send its bytes as base64 text|is no base64|no control model|no base model|cannot"
    ):
        client.predict({**SHORT, **request_of(photo, str(there))}, api_name="/generate")


@pytest.mark.parametrize("path", ["/etc/hostname", "{root}/cli.py", "{tmp}", "/proc/self/environ"])
def test_no_file_can_be_fetched(served: Any, tmp_path: Path, path: str) -> None:
    import httpx

    (tmp_path / "secret.txt").write_text("secret")
    root = Path(__file__).resolve().parents[2]
    named = path.format(root=root, tmp=tmp_path / "secret.txt")
    assert httpx.get(f"{served.url}/gradio_api/file={named}").status_code in (403, 404)


def test_a_widget_takes_no_path_that_was_not_uploaded(served: Any, tmp_path: Path) -> None:
    # The drop area for settings hands its function a path: gradio must refuse any that it did not write itself.
    import httpx

    there = tmp_path / "secret.png"
    Image.new("RGB", (8, 8)).save(there)
    config = httpx.get(f"{served.url}/config").json()
    drop = next(each["id"] for each in config["components"] if each["props"].get("elem_id") == "restore-file")
    place = next(k for k, each in enumerate(config["dependencies"]) if drop in each["inputs"])
    for path in (str(there), "http://127.0.0.1:9/picture.png"):
        given = {"path": path, "meta": {"_type": "gradio.FileData"}, "orig_name": "picture.png"}
        joined = httpx.post(
            f"{served.url}/gradio_api/queue/join",
            json={"data": [given], "fn_index": place, "session_hash": "test", "event_data": None, "trigger_id": None},
        )
        if joined.status_code != 200:
            assert "cannot name" in joined.text
            continue
        with httpx.stream("GET", f"{served.url}/gradio_api/queue/data?session_hash=test", timeout=30) as events:
            ended = next(line for line in events.iter_lines() if "process_completed" in line)
        assert json.loads(ended.removeprefix("data: "))["success"] is False


def test_plain_http_does_too(served: Any, photo: str) -> None:
    # The two lines that docs/page.md shows, without any client.
    import httpx

    begun = httpx.post(f"{served.url}/gradio_api/call/generate", json={"data": [{**SHORT, "units": [unit(photo)]}]})
    with httpx.stream("GET", f"{served.url}/gradio_api/call/generate/{begun.json()['event_id']}", timeout=60) as events:
        told = [json.loads(line[6:])[0] for line in events.iter_lines() if line.startswith("data: [")]
    assert pixels_of(told[-1]["images"][0]).shape == (SIDE, SIDE, 3)


def test_one_request_cannot_stop_anothers(served: Any, photo: str) -> None:
    from gradio_client import Client

    patient, hasty = Client(served.url, verbose=False), Client(served.url, verbose=False)
    slow = patient.submit({**SHORT, "steps": 12}, api_name="/generate")
    second = hasty.submit({**SHORT, "steps": 12}, api_name="/generate")
    second.cancel()
    assert slow.result(timeout=120)["seeds"] == [3]


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ({"steps": 100000}, "steps is 100000, expected at most 1000"),
        ({"width": 65536}, "width is 65536, expected at most 4096"),
        ({"prompt": "x" * 10_001}, "a prompt has 10001 characters, expected at most 10000"),
        ({"nonsense": 1}, "a request has no 'nonsense'"),
        ({"units": [{"model": "canny"}]}, "it has no picture"),
        ({"units": "all"}, "expected a list of tables"),
        ({"units": ["all"]}, "expected a table of fields"),
    ],
)
def test_wrong_requests_are_refused_in_a_sentence(client: Any, said: dict[str, Any], sentence: str) -> None:
    with pytest.raises(Exception, match=sentence):
        client.predict({**SHORT, **said}, api_name="/generate")


@pytest.mark.parametrize("request_", [None, "x", [1]])
def test_a_request_that_is_no_table_is_refused_in_a_sentence(client: Any, request_: Any) -> None:
    with pytest.raises(Exception, match=r"the request is .*, expected a table of fields"):
        client.predict(request_, api_name="/generate")


@pytest.mark.parametrize(
    ("said", "size", "sentence"),
    [
        ({}, ("a", 64), "width is 'a', expected a number"),
        ({}, (None, 64), "width is None, expected a number"),
        ({}, (64, 1e30), "height is .*, expected at most 4096"),
        ({}, (0, 64), "width is 0, expected 1 to 4096"),
        ({"range": 5}, (64, 64), "range is 5, expected start and end"),
        ({"image": None}, (64, 64), "the unit has no picture"),
    ],
)
def test_wrong_hints_are_refused_in_a_sentence(
    client: Any, photo: str, said: dict[str, Any], size: tuple[Any, Any], sentence: str
) -> None:
    with pytest.raises(Exception, match=sentence):
        client.predict({**unit(photo), **said}, *size, api_name="/preprocess")


UNCALLED = [  # method, path, body -> status, and what the answer says
    ("call/nothing", {"data": [{}]}, 404, "there is no endpoint 'nothing': there are generate, preprocess, offer"),
    ("run/nothing", {"data": [{}]}, 404, "there is no endpoint 'nothing'"),
    ("call/v2/nothing", {}, 404, "there is no endpoint 'nothing'"),
    ("call/generate", {"data": []}, 422, "generate takes 1 input (request), and data has 0: give as many"),
    ("call/generate/", {"data": [{}, 1]}, 422, "generate takes 1 input (request), and data has 2"),
    ("api/preprocess", {"data": [{}]}, 422, "preprocess takes 3 inputs (unit, width, height), and data has 1"),
    ("call/offer", {"data": [1]}, 422, "offer takes 0 inputs, and data has 1"),
    ("call/v2/generate", {"x": 1}, 422, "generate has no input 'x': it has request"),
    ("call/v2/preprocess", {"width": 64}, 422, "preprocess needs the input 'unit': give it"),
    ("queue/join", {"data": [], "fn_index": 9999, "session_hash": "a"}, 500, "cannot be answered (KeyError: 9999)"),
    ("run/predict", {"data": [], "fn_index": 9999}, 500, "cannot be answered (KeyError: 9999)"),
]


@pytest.mark.parametrize(("path", "body", "status", "sentence"), UNCALLED)
def test_what_cannot_be_called_is_told_in_a_sentence(
    served: Any, path: str, body: dict[str, Any], status: int, sentence: str
) -> None:
    import httpx

    answer = httpx.post(f"{served.url}/gradio_api/{path}", json=body, timeout=60)
    assert answer.status_code == status
    assert sentence in answer.json()["detail"]


def test_too_few_inputs_of_a_function_of_the_page_are_told_in_a_sentence(served: Any) -> None:
    import httpx

    config = httpx.get(f"{served.url}/config").json()
    several = next(each["id"] for each in config["dependencies"] if len(each["inputs"]) > 1)
    body = {"data": [], "fn_index": several, "session_hash": "few"}
    answer = httpx.post(f"{served.url}/gradio_api/queue/join", json=body)
    assert (answer.status_code, "reload the page" in answer.json()["detail"]) == (422, True)


@pytest.mark.parametrize("path", ["call/generate/abc", "queue/data?session_hash=nobody"])
def test_a_stream_that_is_not_there_ends(served: Any, path: str) -> None:
    import httpx

    assert "404: Not Found" in httpx.get(f"{served.url}/gradio_api/{path}", timeout=60).text


def test_the_terminal_has_seen_no_traceback(served: Any) -> None:
    import httpx

    httpx.get(f"{served.url}/gradio_api/call/generate/abc", timeout=60)
    said = "".join(served.lines)
    assert "GET /gradio_api/call/generate/abc cannot be answered (" in said
    assert "Traceback" not in said, said


def test_an_answer_says_what_changes_nothing_and_who_never_acted(client: Any, photo: str) -> None:
    units = [unit(photo, preprocessor="invert", parameters={}, resolution=64), unit(photo, weight=0)]
    told = client.predict({**SHORT, "units": units}, api_name="/generate")["warnings"]
    assert "unit 1: invert works at the picture's own size, so resolution=64 changes nothing: leave it out" in told
    assert "unit 2 never acted: its weight is 0: raise it" in told


@pytest.mark.parametrize("kind", ["application/json", "application/x+json", "", "text/plain"])
def test_an_address_is_refused_whatever_its_client_calls_it(served: Any, kind: str) -> None:
    import httpx

    given = {"path": "http://127.0.0.1:9/picture.png", "meta": {"_type": "gradio.FileData"}}
    headers = {"content-type": kind} if kind else {}
    url = f"{served.url}/gradio_api/call/generate"
    answer = httpx.post(url, content=json.dumps({"data": [given]}).encode(), headers=headers, timeout=60)
    assert (answer.status_code, "cannot name a file" in answer.text) == (400, True)


@pytest.mark.parametrize("kind", ["application/json", "application/x+json"])
def test_too_large_a_request_is_refused(served: Any, kind: str) -> None:
    import httpx

    body = json.dumps({"data": ["x" * (65 << 20)]})
    answer = httpx.post(
        f"{served.url}/gradio_api/call/generate", content=body, headers={"content-type": kind}, timeout=60
    )
    assert answer.status_code == 413
    assert answer.json()["detail"] == "the request is larger than 64 MB"


def test_the_headers_keep_a_browser_from_reaching_out(served: Any) -> None:
    import httpx

    policy = httpx.get(served.url).headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "http" not in policy


def test_only_who_has_a_password_comes_in(serve: Any) -> None:
    import httpx

    guarded = serve("--auth", "ada:secret")
    try:
        assert httpx.post(f"{guarded.url}/gradio_api/call/offer", json={"data": []}, timeout=None).status_code == 401
        with httpx.Client(base_url=guarded.url, timeout=None) as known:
            assert known.post("/login", data={"username": "ada", "password": "wrong"}).status_code == 400
            assert known.post("/login", data={"username": "ada", "password": "secret"}).status_code == 200
            assert known.post("/gradio_api/call/offer", json={"data": []}).status_code == 200
            long = {**SHORT, "steps": 900}
            assert known.post("/gradio_api/call/generate", json={"data": [long]}).status_code == 200
    finally:
        assert guarded.close() in (0, 130)  # while it draws, or is about to
