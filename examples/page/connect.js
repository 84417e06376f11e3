// A WebSocket that comes back. Nothing here is needed to use pathcast: `new WebSocket(url)` is.

const WAIT_MS_MIN = 500;
const WAIT_MS_MAX = 10_000;

// Opens `path` on the host this page came from. `state` hears "open", "connecting" and "waiting"
// (with how many milliseconds), `message` hears the data of each message. Returns a function that
// sends, and says whether it could.
function connect(path, defaultPort, { state, message }) {
  const port = new URLSearchParams(location.search).get("port") ?? defaultPort;
  const url = `ws://${location.hostname}:${port}${path}`;
  let socket;
  let failures = 0;

  function open() {
    state("connecting", url);
    socket = new WebSocket(url);
    socket.onopen = () => {
      failures = 0;
      state("open", url);
    };
    socket.onmessage = (event) => message(event.data);
    socket.onclose = (event) => {
      const ms = waitMs(event);
      failures += 1;
      state("waiting", `${Math.round(ms)} ms (closed ${event.code} ${event.reason})`);
      setTimeout(open, ms);
    };
  }

  // A gateway that leaves closes 1012 and tells each client a time of its own, so that they do not
  // all come back at once. Otherwise: longer after each failure, and at random.
  function waitMs(event) {
    const told = /^retry_after_ms=(\d+)$/.exec(event.reason);
    if (event.code === 1012 && told) return Number(told[1]);
    return Math.random() * Math.min(WAIT_MS_MAX, WAIT_MS_MIN * 2 ** failures) + 100;
  }

  open();
  return (text) => {
    const isOpen = socket.readyState === WebSocket.OPEN;
    if (isOpen) socket.send(text);
    return isOpen;
  };
}
