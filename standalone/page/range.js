// A slider with two ends, of two native sliders: keys, touch and screen readers work as in any other.
const words = {en: ["Range", "Start", "End"], de: ["Bereich", "Beginn", "Ende"], zh: ["范围", "开始", "结束"]};
const language = words[navigator.language.slice(0, 2)] ? navigator.language.slice(0, 2) : "en";
const find = (name) => element.querySelector(`.cs-range-${name}`);

function show(start, end) {
    find("start").value = start;
    find("end").value = end;
    find("said").textContent = `${Number(start).toFixed(2)} – ${Number(end).toFixed(2)}`;
    find("fill").style.left = `${start * 100}%`;
    find("fill").style.width = `${(end - start) * 100}%`;
}

function moved(which) {
    let start = Number(find("start").value), end = Number(find("end").value);
    if (start > end) {
        if (which === "start") end = start; else start = end;
    }
    show(start, end);
    return [start, end];
}

function begin() {
    const [title, from, to] = words[language];
    find("title").textContent = title;
    find("start").setAttribute("aria-label", from);
    find("end").setAttribute("aria-label", to);
    show(...props.value);
    for (const which of ["start", "end"]) {
        find(which).addEventListener("input", () => moved(which));
        find(which).addEventListener("change", () => {
            props.value = moved(which);
            trigger("input");
        });
    }
}

begin();
watch("value", () => show(...props.value));
