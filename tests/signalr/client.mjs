// The official SignalR client under remote control: one JSON object a line comes in, one a line goes out.
//
//   node client.mjs '{"url": …, "token": …, …}'
//
// Settings, all but the first two optional:
//   protocol          "json" (default) or "messagepack"
//   transports        those it may use, out of "WebSockets", "ServerSentEvents", "LongPolling"; all of them by default
//   skipNegotiation   WebSockets at once
//   statefulReconnect true, or {"bufferSize": bytes}
//   reconnectDelays   [ms, …]: automatic reconnect
//   results           handlers give back true
//   serverTimeoutMs, keepAliveMs
//
// In:  {"invoke": [method, …], "call": n}  {"send": [method, …]}  {"stream": method, "call": n}  {"stop": true}
//      {"start": true}  {"describe": true}
// Out: {"event": "started"|"failed"|"reconnecting"|"reconnected"|"closed"|"ReceiveNotification"|"Notify"|"answer"|
//      "sent"|"stopped"|"described", …}; `started`, `reconnected` and `described` tell the connection id and the transport

import { createInterface } from "node:readline";
import { HttpTransportType, HubConnectionBuilder, LogLevel } from "@microsoft/signalr";
import { MessagePackHubProtocol } from "@microsoft/signalr-protocol-msgpack";

const settings = JSON.parse(process.argv[2]);

function tell(event, facts = {}) {
  process.stdout.write(JSON.stringify({ event, ...facts }) + "\n");
}

function build() {
  const options = { accessTokenFactory: () => settings.token, skipNegotiation: settings.skipNegotiation === true };
  const transports = settings.transports ?? (options.skipNegotiation ? ["WebSockets"] : []);
  if (transports.length > 0) {
    options.transport = transports.reduce((bits, name) => bits | HttpTransportType[name], HttpTransportType.None);
  }
  const builder = new HubConnectionBuilder().withUrl(settings.url, options).configureLogging(LogLevel.None);
  if (settings.protocol === "messagepack") {
    builder.withHubProtocol(new MessagePackHubProtocol());
  }
  if (settings.statefulReconnect) {
    builder.withStatefulReconnect(settings.statefulReconnect === true ? undefined : settings.statefulReconnect);
  }
  if (settings.reconnectDelays) {
    builder.withAutomaticReconnect(settings.reconnectDelays);
  }
  return builder.build();
}

const connection = build();
connection.serverTimeoutInMilliseconds = settings.serverTimeoutMs ?? 30000;
connection.keepAliveIntervalInMilliseconds = settings.keepAliveMs ?? 15000;

function describe() {
  // The client does not tell which transport it has settled on, but it is what a test of a fallback is about.
  const transport = connection.connection.transport?.constructor.name.replace(/Transport$/, "") ?? null;
  return { connectionId: connection.connectionId ?? null, transport };
}

for (const method of ["ReceiveNotification", "Notify"]) {
  connection.on(method, (...arguments_) => {
    tell(method, { arguments: arguments_ });
    return settings.results ? true : undefined;
  });
}
connection.onreconnecting((error) => tell("reconnecting", { error: error?.message ?? null }));
connection.onreconnected(() => tell("reconnected", describe()));
connection.onclose((error) => tell("closed", { error: error?.message ?? null }));

async function start() {
  try {
    await connection.start();
    tell("started", describe());
  } catch (error) {
    tell("failed", { error: error.message });
  }
}

async function answer(call, work) {
  try {
    tell("answer", { call, result: (await work) ?? null });
  } catch (error) {
    tell("answer", { call, error: error.message });
  }
}

function read(stream) {
  return new Promise((resolve, reject) => stream.subscribe({ next: () => {}, complete: resolve, error: reject }));
}

async function obey(order) {
  if (order.invoke) {
    await answer(order.call, connection.invoke(...order.invoke));
  } else if (order.send) {
    await connection.send(...order.send);
    tell("sent");
  } else if (order.stream) {
    await answer(order.call, read(connection.stream(order.stream)));
  } else if (order.describe) {
    tell("described", describe());
  } else if (order.stop) {
    await connection.stop();
    tell("stopped");
  } else if (order.start) {
    await start();
  }
}

async function leave() {
  // A server that is gone must not keep this process.
  setTimeout(() => process.exit(0), 1000);
  await connection.stop();
  process.exit(0);
}

await start();
const orders = createInterface({ input: process.stdin });
orders.on("line", (line) => obey(JSON.parse(line)));
orders.on("close", leave);
