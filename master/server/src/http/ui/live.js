// Follows the cluster: what happens is heard from the event stream, from the place in the log that the page is of, and the
// page's content is asked for again. Where that stream is not to be had, it is asked for every few seconds. A page with
// the end of a file follows that file instead.
"use strict";
(() => {
  const script = document.currentScript;
  const api = script.dataset.api && new URL(script.dataset.api, location.href);
  let index = Number(script.dataset.index);
  let due = null;
  let reading = false;
  const say = (text) => { const place = document.getElementById("live"); if (place) place.textContent = text; };

  const renew = async () => {
    due = null;
    // Nobody looks, or somebody writes.
    if (document.hidden || reading || document.activeElement instanceof HTMLInputElement) return soon(2000);
    reading = true;
    try {
      const answer = await fetch(location.href, { headers: { Accept: "text/html" }, cache: "no-store" });
      if (!answer.ok && answer.status !== 404) throw new Error(`answered ${answer.status}`);
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const focus = document.activeElement && document.activeElement.getAttribute("href");
      document.getElementById("content").replaceChildren(...page.getElementById("content").childNodes);
      if (focus) {
        const again = [...document.querySelectorAll("main a")].find((link) => link.getAttribute("href") === focus);
        if (again) again.focus({ preventScroll: true });
      }
      index = Number(answer.headers.get("Meseta-Index") || index);
      say(`Followed, now as of index ${index}.`);
    } catch (error) {
      say(`Not followed: ${error.message}`);
    } finally {
      reading = false;
    }
  };
  const soon = (pause) => { if (due === null) due = setTimeout(renew, pause); };
  const wait = (pause) => new Promise((done) => setTimeout(done, pause));

  const follow = async () => {
    for (;;) {
      try {
        if (!api) throw new Error("this page does not hear the stream");
        const answer = await fetch(`${api}?after=${index}`, {
          method: "POST",
          headers: { "Content-Type": "application/json", Accept: "application/json" },
          body: JSON.stringify({ type: "SUBSCRIBE" }),
        });
        if (!answer.ok) throw new Error(`answered ${answer.status}`);
        const events = answer.body.getReader();
        let first = true;
        for (;;) {
          const { done } = await events.read();
          if (done) break;
          if (!first) soon(500);
          first = false;
        }
        soon(500);
        await wait(2000);
      } catch {
        soon(0);
        await wait(5000);
      }
    }
  };

  const tail = async (file) => {
    const box = document.getElementById("follow");
    const text = new TextDecoder();
    let end = Number(file.dataset.end);
    if (box) box.parentElement.hidden = false;
    file.scrollTop = file.scrollHeight;
    while (box) {
      await wait(1000);
      if (document.hidden || !box.checked) continue;
      try {
        const answer = await fetch(`${file.dataset.read}&offset=${end}`, { cache: "no-store" });
        if (!answer.ok) throw new Error(await answer.text());
        const size = Number(answer.headers.get("Meseta-Size"));
        // It was written anew.
        if (size < end) return location.reload();
        const more = new Uint8Array(await answer.arrayBuffer());
        say("The file is followed.");
        if (more.length === 0) continue;
        const isAtEnd = file.scrollTop + file.clientHeight >= file.scrollHeight - 8;
        end += more.length;
        file.append(text.decode(more, { stream: true }));
        // The last part of a long story.
        while (file.childNodes.length > 1 && file.textContent.length > 1 << 18) file.firstChild.remove();
        document.getElementById("end").textContent = end;
        document.getElementById("size").textContent = Math.max(size, end);
        if (isAtEnd) file.scrollTop = file.scrollHeight;
      } catch (error) {
        say(`Not followed: ${error.message}`);
        await wait(4000);
      }
    }
  };
  const file = document.getElementById("file");
  if (file) tail(file); else follow();
})();
