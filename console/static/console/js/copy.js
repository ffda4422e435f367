// <button data-copy="text"> or data-copy-from="id": puts the text on the clipboard and says so.
(() => {
  "use strict";
  const announce = document.getElementById("announce");

  const write = async (text) => {
    if (navigator.clipboard && window.isSecureContext) {
      await navigator.clipboard.writeText(text);
      return;
    }
    const area = document.createElement("textarea"); // plain http: the old way
    area.value = text;
    area.setAttribute("readonly", "");
    area.className = "visually-hidden";
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    if (!done) throw new Error("copy refused");
  };

  document.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-copy], [data-copy-from]");
    if (!button) return;
    const source = button.dataset.copyFrom && document.getElementById(button.dataset.copyFrom);
    try {
      await write(source ? source.textContent.trim() : button.dataset.copy);
    } catch {
      return;
    }
    button.classList.add("done");
    const use = button.querySelector("use");
    const icon = use && use.getAttribute("href");
    if (use) use.setAttribute("href", icon.replace(/#.*/, "#check"));
    if (announce) announce.textContent = document.body.dataset.textCopied;
    window.setTimeout(() => {
      button.classList.remove("done");
      if (use) use.setAttribute("href", icon);
      if (announce) announce.textContent = "";
    }, 1600);
  });
})();
