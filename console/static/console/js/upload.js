// Forms marked data-upload are sent with progress: bytes and time left on the way, the server's
// answer at the end as if the browser had sent them itself. Without this script they work as well.
(() => {
  "use strict";

  const begin = (form) => {
    const part = form.querySelector("[data-upload-progress]");
    const bar = part.querySelector("progress");
    const text = part.querySelector("[data-upload-text]");
    const buttons = form.querySelectorAll("button[type=submit]");
    const began = Date.now();
    const request = new XMLHttpRequest();

    const end = () => {
      part.hidden = true;
      for (const button of buttons) {
        button.disabled = false;
        button.removeAttribute("aria-busy");
      }
    };

    for (const button of buttons) {
      button.disabled = true;
      button.setAttribute("aria-busy", "true");
    }
    part.hidden = false;
    bar.value = 0;
    text.textContent = "";

    request.upload.addEventListener("progress", (event) => {
      if (!event.lengthComputable) return;
      const share = event.loaded / event.total;
      bar.value = share;
      const seconds = ((Date.now() - began) / 1000) * (1 / Math.max(share, 0.001) - 1);
      const mebibytes = (bytes) => (bytes / 1048576).toFixed(1);
      text.textContent =
        `${mebibytes(event.loaded)} / ${mebibytes(event.total)} MiB · ` +
        (share < 1 ? `${Math.ceil(seconds)} s` : part.dataset.checking);
      if (share >= 1) bar.removeAttribute("value"); // the server is checking: how long is not known
    });
    request.addEventListener("load", () => {
      const to = new URL(request.responseURL);
      if (request.status < 400 && to.pathname !== window.location.pathname) {
        window.location.assign(to.href);
        return;
      }
      const page = new DOMParser().parseFromString(request.responseText, "text/html");
      const fresh = page.getElementById("upload");
      const old = document.getElementById("upload");
      if (!fresh || !old) {
        text.textContent = `${part.dataset.failed} (${request.status})`;
        end();
        part.hidden = false;
        return;
      }
      // The files that were chosen stay chosen: what was typed and what is wrong comes anew.
      const chosen = [...form.querySelectorAll("input[type=file]")];
      old.replaceWith(document.adoptNode(fresh));
      for (const input of chosen) {
        const place = document.getElementById(input.id);
        if (place && input.files.length) place.files = input.files;
      }
      const first = document.getElementById("report") || document.querySelector("[aria-invalid]");
      if (first) {
        first.scrollIntoView({ block: "center" });
        if (first.matches("input, select, textarea")) first.focus();
      }
    });
    request.addEventListener("error", () => {
      end();
      part.hidden = false;
      text.textContent = part.dataset.failed;
    });
    request.open("POST", form.action || window.location.href);
    request.send(new FormData(form));
  };

  document.addEventListener("submit", (event) => {
    const form = event.target;
    if (!form.matches("form[data-upload]")) return;
    event.preventDefault();
    begin(form);
  });
})();
