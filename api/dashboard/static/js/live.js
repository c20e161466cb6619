// A study's events as they happen. A stream that broke comes back with the last event it told; a page
// that nobody looks at lets go of its connection, of which a browser has six a server.

const root = document.body.dataset.root;
const ENDS = ["completed", "cancelled", "failed"];
const WORDS = { open: "live", lost: "reconnecting…", closed: "", over: "" };

// Calls `heard(event)` for each event after the id `after`, until the study is over.
export function listen(study, after, heard) {
  const sign = document.getElementById("live");
  let last = after;
  let stream = null;
  let over = false;

  function show(state) {
    if (sign && sign.textContent !== WORDS[state]) sign.textContent = WORDS[state];
  }

  function close(state) {
    stream?.close();
    stream = null;
    show(state);
  }

  function open() {
    if (over || stream || document.hidden) return;
    stream = new EventSource(`${root}/api/v1/studies/${study}/events?after=${last}`);
    stream.addEventListener("open", () => show("open"));
    stream.addEventListener("error", () => {
      show("lost");
      // The browser tries again by itself, but not after a refusal, such as a proxy's 502.
      if (stream?.readyState === EventSource.CLOSED) {
        close("lost");
        refused();
      }
    });
    stream.addEventListener("message", (message) => {
      const event = JSON.parse(message.data);
      last = event.id;
      if (event.kind === "study.deleted"
        || (event.kind === "study.state" && ENDS.includes(event.data.state))) {
        over = true;
        close("over");
      }
      heard(event);
    });
  }

  // Whether it makes sense to try again: not without a token or a study, nor once all was told.
  async function refused() {
    const answer = await fetch(`${root}/api/v1/studies/${study}`).catch(() => null); // no server
    if (answer?.status === 401) location.reload(); // the login page
    const told = answer?.ok ? await answer.json().catch(() => null) : null;
    if ([401, 403, 404].includes(answer?.status) || ENDS.includes(told?.state)) {
      over = true;
      close("over");
    } else setTimeout(open, 5000);
  }

  document.addEventListener("visibilitychange", () => (document.hidden ? close("closed") : open()));
  open();
}

export const ended = (event) => event.kind === "study.state" && ENDS.includes(event.data.state);
