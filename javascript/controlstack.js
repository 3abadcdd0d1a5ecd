// What the accordion shows by itself: how many units are on, and which; and the buttons that copy pictures and sizes.
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
        boxes.forEach((box, index) => buttons[index]?.classList.toggle("cnet-unit-active", box.checked));
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
        if (event.target.matches?.(".cnet-unit-enabled input")) TABS.forEach(update);
    });

    return {byHand, resize, take};
})();
