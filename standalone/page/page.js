// Names for what shows a sign alone, in the visitor's language: gradio's buttons have no other place for them.
() => {
    const words = {
        en: {up: "Move up", down: "Move down", duplicate: "Duplicate", remove: "Remove", dice: "A new seed",
            grip: "Drag to another place"},
        de: {up: "Nach oben", down: "Nach unten", duplicate: "Verdoppeln", remove: "Entfernen", dice: "Neuer Startwert",
            grip: "An einen anderen Platz ziehen"},
        zh: {up: "上移", down: "下移", duplicate: "复制", remove: "删除", dice: "随机种子", grip: "拖动以调整顺序"},
    };
    const said = words[navigator.language.slice(0, 2)] || words.en;
    function name() {
        for (const button of document.querySelectorAll("button.cs-tool:not([aria-label])")) {
            const kind = Object.keys(said).find((each) => button.classList.contains(`cs-${each}`));
            button.setAttribute("aria-label", said[kind]);
            button.title = said[kind];
        }
        for (const grip of document.querySelectorAll(".cs-grip:not([title])")) grip.title = said.grip;
    }
    new MutationObserver(name).observe(document.body, {childList: true, subtree: true});
    name();
}
