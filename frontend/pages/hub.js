// A minimal client of the hub: SignalR's JSON protocol over one WebSocket, with Hello, acknowledgements and reconnects.

const END = "\u001e";
const WAITS_S = [0, 1, 2, 5, 10, 30];
const PING_EVERY_MS = 15_000;
const SILENCE_MS = 30_000;
const INVOCATION = 1, COMPLETION = 3, PING = 6, CLOSE = 7;
const HELLO_ID = "hello";

/**
 * Keeps a connection to the hub.
 *
 * `getTicket()` resolves to a one-use ticket, or null when nobody is signed in; `getHello()` gives Hello's argument;
 * `onNotify(envelope)` may be called twice with one id; `onHello(answer)` tells whether the history is complete;
 * `onState` gets "connecting", "live", "offline", or "ended" with the server's words when it says not to come back.
 */
export class HubConnection {
  #on; #socket = null; #tries = 0; #retry = 0; #pings = 0; #silence = 0; #stopped = true;

  constructor(on) {
    this.#on = on;
  }

  start() {
    if (!this.#stopped) return;
    this.#stopped = false;
    this.#tries = 0;
    this.#open();
  }

  stop() {
    this.#stopped = true;
    clearTimeout(this.#retry);
    this.#drop();
  }

  /** Tries at once instead of after the wait, for instance when the network is back. */
  hurry() {
    if (this.#stopped || this.#socket) return;
    clearTimeout(this.#retry);
    this.#open();
  }

  async #open() {
    this.#on.onState("connecting");
    let ticket;
    try {
      ticket = await this.#on.getTicket();
    } catch {
      return this.#comeBack();
    }
    if (this.#stopped || this.#socket) return;
    if (ticket === null) return this.#end("");
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    const socket = new WebSocket(`${scheme}://${location.host}/hubs/notifications?access_token=${encodeURIComponent(ticket)}`);
    this.#socket = socket;
    let buffered = "", shaken = false;
    socket.onopen = () => this.#send({ protocol: "json", version: 1 });
    socket.onmessage = ({ data }) => {
      this.#listen();
      const records = (buffered + data).split(END);
      buffered = records.pop();
      for (const record of records) {
        const message = JSON.parse(record);
        if (shaken) this.#take(message);
        else if (message.error) socket.close();
        else {
          shaken = true;
          this.#send({ type: INVOCATION, invocationId: HELLO_ID, target: "Hello", arguments: [this.#on.getHello()] });
        }
      }
    };
    socket.onclose = () => {
      if (this.#socket !== socket) return;
      this.#drop();
      this.#comeBack();
    };
    this.#pings = setInterval(() => this.#send({ type: PING }), PING_EVERY_MS);
    this.#listen();
  }

  #take(message) {
    if (message.type === INVOCATION && message.target === "Notify") {
      this.#on.onNotify(message.arguments[0]);
      this.#send({ type: INVOCATION, target: "Acknowledge", arguments: [message.arguments[0].id] });
    } else if (message.type === COMPLETION && message.invocationId === HELLO_ID) {
      if (message.error) return this.#end(message.error);
      this.#tries = 0;
      this.#on.onHello(message.result);
      this.#on.onState("live");
    } else if (message.type === CLOSE && !message.allowReconnect) {
      this.#end(message.error ?? "");
    }
  }

  #send(message) {
    if (this.#socket?.readyState === WebSocket.OPEN) this.#socket.send(JSON.stringify(message) + END);
  }

  // A server that says nothing for 30 seconds, not even a ping, is gone although the socket may not know.
  #listen() {
    clearTimeout(this.#silence);
    this.#silence = setTimeout(() => { this.#drop(); this.#comeBack(); }, SILENCE_MS);
  }

  #comeBack() {
    if (this.#stopped) return;
    this.#on.onState("offline");
    const wait = WAITS_S[Math.min(this.#tries++, WAITS_S.length - 1)];
    clearTimeout(this.#retry);
    // Spread out, so that a restart does not bring everybody back in the same moment.
    this.#retry = setTimeout(() => this.#open(), (wait + Math.random() * Math.max(wait, 0.5) * 0.5) * 1000);
  }

  #end(reason) {
    this.stop();
    this.#on.onState("ended", reason);
  }

  #drop() {
    clearInterval(this.#pings);
    clearTimeout(this.#silence);
    const socket = this.#socket;
    this.#socket = null;
    socket?.close();
  }
}
