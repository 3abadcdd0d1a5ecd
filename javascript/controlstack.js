// What the accordion shows by itself: how many units are on, which, and of which type; the buttons that copy pictures
// and sizes; and the way to a pose editor and back.
// Only the page's own elements are read, so nothing here has to know what the server thinks.

var controlstack = (function () {
    const TABS = ["txt2img", "img2img"];

    function root() {
        return gradioApp();
    }

    function units(tab) {
        const group = root().querySelector(`#${tab}_controlnet`);
        return group ? Array.from(group.querySelectorAll(".cnet-unit-enabled input[type=checkbox]")) : [];
    }

    function update(tab) {
        const group = root().querySelector(`#${tab}_controlnet`);
        if (!group) return;
        const boxes = units(tab);
        showBadge(group, boxes.filter((box) => box.checked).length);
        const buttons = group.querySelectorAll(`#${tab}_controlnet_tabs > .tab-nav > button`);
        boxes.forEach((box, index) => {
            const button = buttons[index];
            if (!button) return;
            button.classList.toggle("cnet-unit-active", box.checked);
            nameType(button, box.checked ? chosenType(tab, index) : "All");
        });
    }

    function chosenType(tab, index) {
        const group = `#${tab}_controlnet_ControlNet-${index}_controlnet_type_filter_radio`;
        return root().querySelector(`${group} input:checked`)?.value || "All";
    }

    function nameType(button, type) {
        let label = button.querySelector(".cnet-unit-type");
        if (!label) {
            label = document.createElement("span");
            label.classList.add("cnet-unit-type");
            button.append(label);
        }
        const text = type === "All" ? "" : ` [${type}]`;
        if (label.textContent !== text) label.textContent = text;
    }

    function showBadge(group, count) {
        const label = group.querySelector("#controlnet > .label-wrap > span");
        if (!label) return;
        let badge = group.querySelector(".cnet-badge");
        if (!badge) {
            badge = document.createElement("span");
            badge.classList.add("cnet-badge");
            label.after(badge);
        }
        const text = count ? `${count} unit${count > 1 ? "s" : ""}` : "";
        if (badge.textContent !== text) badge.textContent = text;
        badge.classList.toggle("primary", count > 0);
    }

    // Put a picture into a gradio image as if the user had chosen a file.
    async function put(address, id) {
        const file = new File([await (await fetch(address)).blob()], "picture.png", {type: "image/png"});
        const target = root().querySelector(`#${id}`);
        let input = target.querySelector("input[type=file]");
        if (!input) {
            target.querySelector("button[aria-label='Clear'], button[aria-label='Remove Image']")?.click();
            input = await appears(target, "input[type=file]");
        }
        if (!input) return;
        const transfer = new DataTransfer();
        transfer.items.add(file);
        input.files = transfer.files;
        input.dispatchEvent(new Event("change", {bubbles: true}));
    }

    async function appears(parent, selector) {
        for (let i = 0; i < 40; i++) {
            const found = parent.querySelector(selector);
            if (found) return found;
            await new Promise((resolve) => setTimeout(resolve, 50));
        }
        return null;
    }

    function selected(tab) {
        const gallery = root().querySelector(`#${tab}_gallery`);
        return gallery?.querySelector(".preview > img, .preview button > img, .preview img[data-testid='detailed-image']")
            || gallery?.querySelector("img");
    }

    function take(tab, id) {
        const picture = selected(tab);
        if (picture) put(picture.src, id);
    }

    function resize(tab, id) {
        const picture = root().querySelector(`#${id} img`);
        if (!picture || !picture.naturalWidth) return;
        for (const [name, size] of [["width", picture.naturalWidth], ["height", picture.naturalHeight]]) {
            const input = root().querySelector(`#${tab}_${name} input[type=number]`);
            input.value = Math.max(64, Math.round(size / 8) * 8);
            updateInput(input);
        }
    }

    // --- Pose editors (sd-webui-openpose-editor and its like): a page of the same server that takes and sends messages.

    const EDITOR = "/openpose_editor_index";
    let editing = null;  // {id, frame, overlay} of the unit whose poses are in the editor

    async function edit(element) {
        const id = element.closest("[id$='_pose']").id;
        const link = element.parentElement.querySelector(".cnet-pose-link");
        const there = await fetch(EDITOR).then((answer) => answer.ok, () => false);
        if (!there) {
            alert("There is no pose editor here: install the extension sd-webui-openpose-editor, or edit the JSON file.");
            return;
        }
        close();
        const overlay = document.createElement("div");
        overlay.classList.add("cnet-editor");
        const button = document.createElement("button");
        button.textContent = "✕";
        button.addEventListener("click", close);
        const frame = document.createElement("iframe");
        frame.src = EDITOR + (document.body.classList.contains("dark") ? "?theme=dark" : "");
        overlay.append(button, frame);
        document.body.append(overlay);
        const picture = root().querySelector(`#${id.replace(/_pose$/, "_input_image")} img`);
        editing = {id, frame, overlay, sent: {modalId: id, imageURL: picture?.src, poseURL: link.href}};
    }

    function close() {
        editing?.overlay.remove();
        editing = null;
    }

    window.addEventListener("message", (event) => {
        if (!editing || event.source !== editing.frame.contentWindow || event.origin !== location.origin) return;
        if (event.data?.ready) editing.frame.contentWindow.postMessage(editing.sent, location.origin);
        if (event.data?.modalId !== editing.id || typeof event.data.poseURL !== "string") return;
        const input = root().querySelector(`#${editing.id}_text textarea, #${editing.id}_text input`);
        input.value = event.data.poseURL;
        updateInput(input);
        root().querySelector(`#${editing.id}_sent`).click();
        close();
    });

    // Only what a person does makes native events; what the server sets does not.
    const clicked = new Set();

    function byHand(id) {
        return clicked.delete(id);
    }

    document.addEventListener("change", (event) => {
        const group = event.target.closest?.(".controlnet_control_type");
        if (group && event.isTrusted) clicked.add(group.id);
    }, true);

    // A picture of the webcam is no upload, so gradio does not say that it came: who releases the shutter wants it used.
    document.addEventListener("click", (event) => {
        const image = event.target.closest?.(".controlnet [id$='_input_image']");
        if (!image?.querySelector("video") || !event.target.closest("button")) return;
        const box = root().querySelector(`#${image.id.replace("_input_image", "_controlnet_enable_checkbox")} input`);
        if (!box.checked) box.click();
    }, true);

    // Another unit, tab or browser may have saved a preset since the list was read.
    document.addEventListener("pointerover", (event) => {
        const row = event.target.closest?.(".cnet-presets");
        if (row && !row.contains(event.relatedTarget)) row.querySelector("[id$='_preset_refresh']")?.click();
    });

    onAfterUiUpdate(() => TABS.forEach(update));
    document.addEventListener("change", (event) => {
        if (event.target.matches?.(".cnet-unit-enabled input, .controlnet_control_type input")) TABS.forEach(update);
    });

    return {byHand, edit, resize, take};
})();
