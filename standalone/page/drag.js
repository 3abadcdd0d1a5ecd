// Cards are dragged by their grips; the value becomes [from, to, which drag of the page].
const cards = () => [...document.querySelectorAll(".cs-card")];
const place = (y) => {
    const found = cards().findIndex((each) => y < each.getBoundingClientRect().bottom);
    return found < 0 ? cards().length - 1 : found;
};
let dragged = null, count = 0;

function mark(target) {
    cards().forEach((each, k) => each.classList.toggle("cs-target", k === target && each !== dragged));
}

function end(target) {
    const from = cards().indexOf(dragged);
    mark(-1);
    dragged.classList.remove("cs-dragged");
    dragged = null;
    if (target < 0 || from < 0 || from === target) return;
    count += 1; // the same drag twice is another value
    props.value = [from, target, count];
    trigger("input");
}

document.addEventListener("pointerdown", (event) => {
    if (!event.target.closest(".cs-grip")) return;
    event.preventDefault();
    dragged = event.target.closest(".cs-card");
    dragged.classList.add("cs-dragged");
});
document.addEventListener("pointermove", (event) => dragged && mark(place(event.clientY)));
document.addEventListener("pointerup", (event) => dragged && end(place(event.clientY)));
document.addEventListener("pointercancel", () => dragged && end(-1));
