// Frames to look at large, and the answers as a file.
"use strict";
(() => {
  const dialog = document.querySelector("dialog");
  const pictures = [...document.querySelectorAll(".frames button")];
  let at = 0;

  function show(index) {
    at = (index + pictures.length) % pictures.length;
    const image = pictures[at].querySelector("img");
    Object.assign(dialog.querySelector("img"), { src: image.src, alt: image.alt });
    dialog.querySelector("p").textContent = pictures[at].parentElement.querySelector("figcaption").textContent;
    if (!dialog.open) dialog.showModal();
  }

  pictures.forEach((button, index) => button.addEventListener("click", () => show(index)));
  dialog.addEventListener("click", (event) => {
    const step = event.target.dataset.step;
    if (step) show(at + Number(step));
    else dialog.close();
  });
  dialog.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (step) show(at + step);
  });

  const text = document.getElementById("answers").textContent;
  const raw = document.querySelector("details.raw");
  raw.addEventListener("toggle", () => { raw.querySelector("pre").textContent = text; });
  document.querySelector("button.download").addEventListener("click", () => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
    link.download = "answers.json";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  });
})();
