// Forms marked data-upload are sent with progress: bytes and time left on the way, the server's
// answer at the end as if the browser had sent them itself. Before that, the columns of the first
// file are shown by its ends alone. Without this script the form works as well.
(() => {
  "use strict";

  const ENDS = 2 ** 20; // of a large file that are sent to be looked at
  const WHOLE = 6 * ENDS; // files up to here are looked at whole
  const SAY_SECONDS = 5; // between two words to those who listen

  const mebibytes = (bytes) => `${(bytes / 2 ** 20).toFixed(1)} MiB`;
  const fill = (text, ...values) => values.reduce((said, value) => said.replace("{}", value), text);
  const token = (form) => form.querySelector("[name=csrfmiddlewaretoken]").value;
  let flight = null; // the one upload of this page

  const showColumns = async (form, input) => {
    const place = document.getElementById("columns");
    const file = input.files[0];
    place.replaceChildren();
    if (!file) return;
    const asked = new FormData();
    const isWhole = file.size <= WHOLE;
    asked.append("name", file.name);
    asked.append("size", String(file.size));
    asked.append("head", isWhole ? file : file.slice(0, ENDS), file.name);
    if (!isWhole && /\.parquet$/i.test(file.name)) {
      asked.append("tail", file.slice(-ENDS), file.name);
    }
    try {
      const answer = await fetch(place.dataset.columns, {
        method: "POST",
        body: asked,
        headers: { "X-CSRFToken": token(form) },
      });
      if (!answer.ok || answer.redirected || input.files[0] !== file) return;
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      place.replaceChildren(...page.body.childNodes);
    } catch {
      // The upload itself will say what is wrong.
    }
  };

  const begin = (form) => {
    const part = form.querySelector("[data-upload-progress]");
    const line = part.querySelector("[data-upload-bar]");
    const bar = part.querySelector("progress");
    const text = part.querySelector("[data-upload-text]");
    const said = part.querySelector("[data-upload-said]");
    const stop = form.querySelector("[data-upload-stop]");
    const submit = form.querySelector("button[type=submit]");
    const began = Date.now();
    let saidAt = began;

    const end = (words) => {
      flight = null;
      stop.hidden = true;
      submit.disabled = false;
      submit.removeAttribute("aria-busy");
      line.hidden = true;
      said.textContent = words;
      if (document.activeElement === document.body) submit.focus();
    };

    const files = [...form.querySelectorAll("input[type=file]")].flatMap((one) => [...one.files]);
    const size = files.reduce((sum, file) => sum + file.size, 0);
    const most = Number(form.dataset.mostBytes);
    part.hidden = false;
    if (size > most) {
      end(fill(part.dataset.large, mebibytes(size), mebibytes(most)));
      return;
    }

    submit.disabled = true;
    submit.setAttribute("aria-busy", "true");
    stop.hidden = false;
    line.hidden = false;
    bar.value = 0;
    text.textContent = "";
    said.textContent = "";
    const request = new XMLHttpRequest();
    flight = request;

    request.upload.addEventListener("progress", (event) => {
      if (!event.lengthComputable) return;
      const share = event.loaded / event.total;
      const now = Date.now();
      const left = Math.ceil(((now - began) / 1000) * (1 / Math.max(share, 0.001) - 1));
      const amount = `${mebibytes(event.loaded)} / ${mebibytes(event.total)}`;
      bar.value = share;
      text.textContent = share < 1 ? `${amount} · ${fill(part.dataset.left, left)}` : amount;
      if (now - saidAt > SAY_SECONDS * 1000) {
        saidAt = now;
        said.textContent = `${Math.floor(100 * share)} %`;
      }
    });
    request.upload.addEventListener("load", () => {
      bar.removeAttribute("value"); // the server is checking: how long is not known
      said.textContent = part.dataset.checking;
    });
    request.addEventListener("load", () => {
      const to = new URL(request.responseURL);
      if (request.status < 400 && to.pathname !== window.location.pathname) {
        flight = null;
        window.location.assign(to.href);
        return;
      }
      const page = new DOMParser().parseFromString(request.responseText, "text/html");
      const fresh = page.getElementById("upload");
      const old = document.getElementById("upload");
      if (!fresh || !old) {
        end(fill(part.dataset.refused, String(request.status)));
        return;
      }
      flight = null;
      // The files that were chosen stay chosen: what was typed and what is wrong comes anew.
      const chosen = [...form.querySelectorAll("input[type=file]")];
      old.replaceWith(document.adoptNode(fresh));
      for (const input of chosen) {
        const place = document.getElementById(input.id);
        if (place && input.files.length) place.files = input.files;
      }
      const first =
        document.querySelector("#columns .errorlist") ||
        document.querySelector("#upload [aria-invalid]") ||
        document.querySelector("#upload .errorlist, #upload .notice.bad") ||
        document.getElementById("report");
      if (first) {
        const fold = first.closest("details");
        if (fold) fold.open = true;
        if (!first.matches("input, select, textarea")) first.tabIndex = -1;
        first.focus({ preventScroll: true });
        first.scrollIntoView({ block: "center" });
      }
    });
    request.addEventListener("error", () => end(part.dataset.failed));
    request.addEventListener("abort", () => end(part.dataset.stopped));
    request.open("POST", form.getAttribute("action") || window.location.href);
    request.send(new FormData(form));
  };

  document.addEventListener("submit", (event) => {
    const form = event.target;
    if (!form.matches("form[data-upload]")) return;
    event.preventDefault();
    if (!flight) begin(form);
  });
  document.addEventListener("click", (event) => {
    if (flight && event.target.closest("[data-upload-stop]")) flight.abort();
  });
  document.addEventListener("change", (event) => {
    const form = event.target.closest("form[data-upload]");
    if (form && event.target.matches("[name=train]")) showColumns(form, event.target);
  });
  window.addEventListener("beforeunload", (event) => {
    if (flight) event.preventDefault();
  });
})();
