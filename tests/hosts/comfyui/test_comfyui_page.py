"""What a person does on ComfyUI's real page: find our nodes, connect them, run them, read what they say."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import comfyui_world as world
import pytest
from browser import page as open_page
from browser import shoot
from comfyui_host import ROOT, Host
from comfyui_scene import Scene

EXAMPLES = sorted((ROOT / "example_workflows").glob("*.json"))
QUIET = {"Comfy.TutorialCompleted": True, "LiteGraph.Canvas.MinFontSizeForLOD": 0}
WAIT = 60_000  # milliseconds
BOX, OPTION = "input[role=combobox]", ".p-autocomplete-option"  # of the search for nodes
NODES = ("Control Unit", "Apply Control Units", "Load Control Model")
# Of the trade, by which people look for a control or a preprocessor; also words that the host's own nodes have in their
# names (depth, inpaint, tile, pose, reference), which its search ranks before all other words.
WORDS = (
    *("controlnet", "apply controlnet", "load controlnet", "preprocessor", "canny", "scribble", "mlsd", "pidinet"),
    *("softedge", "soft edge", "lineart", "midas", "normal", "segmentation", "openpose", "dwpose", "hint", "shuffle"),
    *("t2i", "controlnet union", "controlnet inpaint", "depth", "pose", "tile", "inpaint", "hed", "reference"),
    "invert",
)
PAGE = 7  # results that stand in the search box before one scrolls

# Newer pages have another search as well, which hangs a found node on the pointer; the older one is on all pages.
OLDER_SEARCH = """async () => {
  const name = "Comfy.NodeSearchBoxImpl", older = "v1 (legacy)";
  const known = window.app.ui?.settings?.settingsLookup?.[name]?.options;
  if (Array.isArray(known) && known.includes(older)) await window.app.extensionManager.setting.set(name, older);
}"""

# Connects the nodes on the page, by their types, as a person would with the mouse.
CONNECT = """(folder) => {
  const graph = window.app.graph, find = type => graph._nodes.find(node => node.type === type);
  const add = (type, x, y, set = {}) => {
    const node = LiteGraph.createNode(type);
    node.pos = [x, y];
    graph.add(node);
    for (const widget of node.widgets || []) if (widget.name in set) widget.value = set[widget.name];
    return node;
  };
  const [unit, apply, load] = ["ControlUnit", "ApplyControlUnits", "LoadControlModel"].map(
    name => find("ControlStack" + name));
  unit.pos = [400, 60]; apply.pos = [740, 60]; load.pos = [40, 460];
  apply.setSize([330, 130]);
  const choose = (node, name, value) => {
    const widget = node.widgets.find(each => each.name === name);
    widget.value = value;
    widget.callback?.(value);
  };
  choose(load, "name", "tiny-canny.safetensors");
  choose(unit, "preprocessor", "canny");
  choose(unit, "preprocessor.low", 50);
  choose(unit, "preprocessor.high", 100);
  const image = add("LoadImage", 40, 60, {image: "scene-3.png"});
  const base = add("TestWorld", 740, 280, {folder});
  base.title = "Checkpoint";
  base.collapse();
  const text = add("CLIPTextEncode", 740, 360, {text: "a purple square and a cyan triangle on green"});
  text.setSize([330, 110]);
  const latent = add("EmptyLatentImage", 740, 520, {width: 128, height: 128});
  const sample = add("KSampler", 1110, 60, {cfg: 2, scheduler: "normal", seed: 3, control_after_generate: "fixed"});
  const decode = add("VAEDecode", 1110, 390), show = add("PreviewImage", 1110, 490);
  image.connect(0, unit, "image"); load.connect(0, unit, "control_net"); unit.connect(0, apply, "units");
  base.connect(1, text, "clip"); text.connect(0, apply, "positive"); text.connect(0, apply, "negative");
  base.connect(0, sample, "model"); apply.connect(0, sample, "positive"); apply.connect(1, sample, "negative");
  latent.connect(0, sample, "latent_image"); sample.connect(0, decode, "samples"); base.connect(2, decode, "vae");
  decode.connect(0, show, "images");
}"""

RINGED = "window.app.graph._nodes.flatMap(n => n.inputs.filter(i => i.hasErrors).map(i => n.type + ' ' + i.name))"
MARKED = "window.app.graph._nodes.filter(n => n.has_errors).map(n => n.type)"

# One more unit, before a unit whose range is upside down, and one behind it.
CHAIN = """() => {
  const graph = window.app.graph, unit = graph._nodes.find(node => node.type === "ControlStackControlUnit");
  const behind = LiteGraph.createNode("ControlStackControlUnit"), before = LiteGraph.createNode(unit.type);
  for (const each of [before, behind]) {
    graph.add(each);
    unit.getInputNode(unit.findInputSlot("control_net")).connect(0, each, "control_net");
    unit.getInputNode(unit.findInputSlot("image")).connect(0, each, "image");
  }
  before.connect(0, unit, "units_before");
  unit.connect(0, behind, "units_before");
  behind.connect(0, graph._nodes.find(node => node.type === "ControlStackApplyControlUnits"), "units");
  for (const [name, value] of [["start", 0.8], ["end", 0.2]]) unit.widgets.find(w => w.name === name).value = value;
}"""
ADD = """() => ["ControlUnit", "ApplyControlUnits", "LoadControlModel"].forEach(name =>
  window.app.graph.add(LiteGraph.createNode("ControlStack" + name)))"""


def _make_ready(host: Host, page: Any) -> None:
    for name, value in QUIET.items():
        body = json.dumps(value).encode()
        request = urllib.request.Request(f"{host.address}/settings/{name}", body, {"Content-Type": "application/json"})
        urllib.request.urlopen(request, timeout=10).close()
    page.goto(host.address)
    page.wait_for_function("window.app?.graph && window.LiteGraph", timeout=WAIT)
    page.wait_for_timeout(3000)  # it goes on to set up its menus
    page.evaluate(OLDER_SEARCH)


@pytest.fixture
def page(comfyui: Host) -> Iterator[Any]:
    with open_page() as opened:
        _make_ready(comfyui, opened)
        yield opened


def search(page: Any, x: int, name: str) -> None:
    """Open the search box by a double click on an empty place, as often as it takes, and type."""
    for _ in range(10):
        page.mouse.dblclick(x, 300)
        page.wait_for_timeout(1500)  # a box that fades out still catches clicks
        if not page.locator(BOX).is_visible():
            continue  # typed now, letters would be shortcuts of the page
        page.keyboard.type(name, delay=20)
        page.locator(OPTION, has_text=name).first.wait_for(timeout=WAIT)
        return
    pytest.fail(f"the search box does not find {name}")


def test_find_connect_run_and_read(comfyui: Host, page: Any, tmp_path: Path) -> None:
    page.evaluate("window.app.graph.clear()")
    for number, name in enumerate(NODES, start=1):
        search(page, 400 * number - 100, name)
        if number == 1:
            shoot(page, tmp_path, "comfyui-search")
        page.locator(OPTION, has_text=name).first.click()
        page.wait_for_function(f"window.app.graph._nodes.length === {number}", timeout=WAIT)
    page.evaluate(CONNECT, str(world.TINY / "base"))
    page.evaluate("window.app.queuePrompt(0, 1)")
    page.wait_for_function(
        "window.app.graph._nodes.find(n => n.type === 'ControlStackControlUnit').imgs?.length", timeout=WAIT
    )
    said = "window.app.graph._nodes.find(n => n.type === 'ControlStackApplyControlUnits').widgets?.map(w => w.value)"
    page.wait_for_function(f"({said})?.some(x => String(x).includes('fires on'))", timeout=WAIT)
    assert "fires on 20 of 20 steps" in str(page.evaluate(said))
    page.wait_for_function("window.app.graph._nodes.find(n => n.type === 'PreviewImage').imgs?.length", timeout=WAIT)
    page.evaluate("window.app.extensionManager.command.execute('Comfy.Canvas.FitView')")
    page.wait_for_timeout(1500)  # the view glides there
    shoot(page, tmp_path, "comfyui")
    page.evaluate("""() => {
      const unit = window.app.graph._nodes.find(n => n.type === 'ControlStackControlUnit');
      Object.assign(unit.widgets.find(w => w.name === 'start'), {value: 0.8});
      Object.assign(unit.widgets.find(w => w.name === 'end'), {value: 0.2});
    }""")
    page.evaluate("window.app.queuePrompt(0, 1)")
    page.get_by_text("the range starts at 0.8, after its end 0.2").first.wait_for(timeout=WAIT)
    shoot(page, tmp_path, "comfyui-error")
    assert page.evaluate(RINGED) == []


def test_no_socket_is_marked_for_a_unit_of_a_chain(comfyui: Host, page: Any, tmp_path: Path) -> None:
    page.evaluate("window.app.graph.clear()")
    page.evaluate(ADD)
    page.evaluate(CONNECT, str(world.TINY / "base"))
    page.evaluate(CHAIN)
    page.evaluate("window.app.queuePrompt(0, 1)")
    page.get_by_text("the range starts at 0.8, after its end 0.2").first.wait_for(timeout=WAIT)
    shoot(page, tmp_path, "comfyui-chain-error")
    assert page.evaluate(MARKED) == ["ControlStackControlUnit"]
    assert page.evaluate(RINGED) == []


def test_words_of_the_trade_find_our_nodes(comfyui: Host, page: Any) -> None:
    if "search_aliases" not in comfyui.get("object_info/ControlStackPreprocess")["ControlStackPreprocess"]:
        pytest.skip("this ComfyUI's search knows no aliases")
    page.evaluate("window.app.graph.clear()")
    search(page, 300, "Control Unit")
    found = {}
    for word in WORDS:
        page.locator(BOX).fill(word)
        page.wait_for_timeout(700)  # it searches as one types
        found[word] = page.locator(OPTION).all_inner_texts()[:PAGE]
    assert not {word: texts for word, texts in found.items() if not any("> ControlStack" in text for text in texts)}


TELL = """address => {
  window.told = {a: [], b: []};
  const open = name => new Promise(done => {
    const socket = new WebSocket(`${address.replace("http", "ws")}/ws?clientId=${name}`);
    socket.binaryType = "arraybuffer";
    socket.onopen = done;
    socket.onmessage = event => {
      if (event.data instanceof ArrayBuffer && new DataView(event.data).getUint32(0) === 3)
        window.told[name].push(new TextDecoder().decode(event.data.slice(4)));
    };
  });
  return Promise.all([open("a"), open("b")]);
}"""


def test_a_report_is_whole_and_goes_to_the_client_that_asked(comfyui: Host, page: Any) -> None:
    page.evaluate(TELL, comfyui.address)
    scene = Scene()
    scene.apply(scene.unit(scene.theirs("canny"), scene.picture(), scene.unit(scene.ours("depth"), scene.picture(1))))
    scene.graph.add("SaveLatent", samples=scene.sample(), filename_prefix="told")
    comfyui.run(scene.graph, client="a")
    page.wait_for_function("window.told.a.some(text => text.includes('2. canny: fires on 4 of 4 steps'))", timeout=WAIT)
    told = page.evaluate("window.told")
    assert any("1. depth: fires on 4 of 4 steps" in text for text in told["a"])
    assert any("loaded by ControlStack" in text for text in told["a"])
    assert told["b"] == []


TWICE = """() => window.app.graph.nodes.filter(node => {
    const shown = (node.inputs ?? []).map(input => input.localized_name ?? input.label ?? input.name);
    return new Set(shown).size < shown.length;
}).map(node => node.type)"""  # nodes with two inputs of one name: an input was renamed since the workflow was saved


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_examples_open_and_run(comfyui: Host, page: Any, example: Path, tmp_path: Path) -> None:
    """As shipped, but for the checkpoint and control models, which are our tiny ones."""
    assert example.with_suffix(".jpg").is_file(), "it has no thumbnail"
    page.evaluate("(workflow) => window.app.loadGraphData(workflow)", json.loads(example.read_text("utf-8")))
    assert page.evaluate(TWICE) == []
    nodes = page.evaluate("async () => (await window.app.graphToPrompt()).output")
    assert len([node for node in nodes.values() if node["class_type"].startswith("ControlStack")]) >= 2
    shoot(page, tmp_path, f"example-{example.stem}")
    entry = comfyui.run(world.in_tiny({name: node for name, node in nodes.items() if "class_type" in node}))
    saved = [image for out in entry["outputs"].values() for image in out.get("images", ()) if image["type"] == "output"]
    assert len(saved) == (2 if "Batch" in example.stem else 1)
