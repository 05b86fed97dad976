// Lets the viewer run standalone. The build expects a Python program to control it: it reads the
// address of that program from its own URL, `/v/{session}`, and listens to its events. Here there is
// no such program, and the state of the viewer is in the URL.
// The block hides its names from the viewer's scripts.
{
  const own = location.pathname;

  function showOwnAddress() {
    if (location.pathname !== own) history.replaceState(null, "", own + location.hash);
  }

  // Connects at once, and never sends an event.
  window.EventSource = class extends EventTarget {
    constructor() {
      super();
      showOwnAddress();
      setTimeout(() => this.onopen?.(new Event("open")));
    }
    close() {}
  };

  // The viewer writes its state to the URL while the state changes. On a busy processor a write may
  // fall due while a state is being restored; serializing a half-built layer then fails, and that
  // layer is lost. So listeners to the state are notified once, after the script that changes it has
  // ended.
  function notifyAfterwards(signal) {
    const { add } = signal;
    signal.add = (listener) => {
      let due = false;
      return add.call(signal, () => {
        if (due) return;
        due = true;
        queueMicrotask(() => {
          due = false;
          listener();
        });
      });
    };
  }

  // The viewer sets `window.viewer` before it reads the URL and before it listens to its state.
  Object.defineProperty(window, "viewer", {
    configurable: true,
    set(viewer) {
      const plain = { value: viewer, configurable: true, enumerable: true, writable: true };
      Object.defineProperty(window, "viewer", plain);
      notifyAfterwards(viewer.state.changed);
    },
  });

  // An edit of the URL by the user wins, even if the viewer, busy until then, writes its state there
  // before it is notified of the edit.
  addEventListener("hashchange", ({ newURL }) => {
    const { hash } = new URL(newURL);
    if (location.hash !== hash) history.replaceState(null, "", location.pathname + hash);
  });

  // The files that the viewer loads are next to its page, not next to the address that it sees.
  const base = document.createElement("base");
  base.href = location.origin + own;
  document.head.prepend(base);

  // Without a state in the URL, the viewer would not write its own there.
  const hash = location.hash.startsWith("#!") ? location.hash : "#!%7B%7D";
  history.replaceState(null, "", `${own.replace(/\/+$/, "")}/v/here/${hash}`);
  addEventListener("load", showOwnAddress);
}
