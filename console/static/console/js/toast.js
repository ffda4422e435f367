// Toasts go after eight seconds unless pointed at or focused; errors stay until closed.
(() => {
  "use strict";
  const list = document.querySelector(".toasts");
  if (!list) return;

  const watch = (toast) => {
    if (toast.classList.contains("bad")) return;
    let timer = 0;
    const start = () => { timer = window.setTimeout(() => toast.remove(), 8000); };
    const hold = () => window.clearTimeout(timer);
    toast.addEventListener("mouseenter", hold);
    toast.addEventListener("focusin", hold);
    toast.addEventListener("mouseleave", start);
    toast.addEventListener("focusout", start);
    start();
  };

  list.addEventListener("click", (event) => {
    const close = event.target.closest(".close");
    if (close) close.closest(".toast").remove();
  });
  for (const toast of list.querySelectorAll(".toast")) watch(toast);

  // An htmx answer may carry `HX-Trigger: {"toast": {"text": ..., "tone": ...}}`.
  document.body.addEventListener("toast", (event) => {
    const template = document.getElementById("toast-template");
    const toast = template.content.firstElementChild.cloneNode(true);
    toast.querySelector(".toast-text").textContent = event.detail.text;
    if (event.detail.tone) toast.classList.add(event.detail.tone);
    list.append(toast);
    watch(toast);
  });
})();
