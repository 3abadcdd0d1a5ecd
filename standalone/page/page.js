// Names for what shows a sign alone, in the visitor's language: gradio's buttons have no other place for them.
() => {
    const words = {
        en: {up: "Move up", down: "Move down", duplicate: "Duplicate", remove: "Remove", dice: "A new seed"},
        de: {up: "Nach oben", down: "Nach unten", duplicate: "Verdoppeln", remove: "Entfernen", dice: "Neuer Startwert"},
        zh: {up: "上移", down: "下移", duplicate: "复制", remove: "删除", dice: "随机种子"},
    };
    const said = words[navigator.language.slice(0, 2)] || words.en;
    function name() {
        for (const [kind, word] of Object.entries(said)) {
            for (const button of document.querySelectorAll(`button.cs-${kind}:not([aria-label])`)) {
                button.setAttribute("aria-label", word);
                button.title = word;
            }
        }
    }
    new MutationObserver(name).observe(document.body, {childList: true, subtree: true});
    name();
}
