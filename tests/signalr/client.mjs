// The official SignalR client under remote control: one JSON object a line comes in, one a line goes out.
//
//   node client.mjs '{"url": …, "token": …, "skipNegotiation": false, "reconnectDelays": [0, 100], "results": false}'
//
// In:  {"invoke": [method, …], "call": n}  {"send": [method, …]}  {"stream": method, "call": n}  {"stop": true}
// Out: {"event": "started"|"failed"|"reconnecting"|"reconnected"|"closed"|"ReceiveNotification"|"Notify"|"answer", …}

import { createInterface } from "node:readline";
import { HttpTransportType, HubConnectionBuilder, LogLevel } from "@microsoft/signalr";

const settings = JSON.parse(process.argv[2]);

function tell(event, facts = {}) {
  process.stdout.write(JSON.stringify({ event, ...facts }) + "\n");
}

const options = { accessTokenFactory: () => settings.token, skipNegotiation: settings.skipNegotiation === true };
if (options.skipNegotiation) {
  options.transport = HttpTransportType.WebSockets;
}
let builder = new HubConnectionBuilder().withUrl(settings.url, options).configureLogging(LogLevel.None);
if (settings.reconnectDelays) {
  builder = builder.withAutomaticReconnect(settings.reconnectDelays);
}
const connection = builder.build();
connection.serverTimeoutInMilliseconds = settings.serverTimeoutMs ?? 30000;
connection.keepAliveIntervalInMilliseconds = settings.keepAliveMs ?? 15000;

for (const method of ["ReceiveNotification", "Notify"]) {
  connection.on(method, (...arguments_) => {
    tell(method, { arguments: arguments_ });
    return settings.results ? true : undefined;
  });
}
connection.onreconnecting((error) => tell("reconnecting", { error: error?.message ?? null }));
connection.onreconnected((connectionId) => tell("reconnected", { connectionId: connectionId ?? null }));
connection.onclose((error) => tell("closed", { error: error?.message ?? null }));

async function obey(order) {
  if (order.invoke) {
    try {
      tell("answer", { call: order.call, result: await connection.invoke(...order.invoke) });
    } catch (error) {
      tell("answer", { call: order.call, error: error.message });
    }
  } else if (order.send) {
    await connection.send(...order.send);
    tell("sent");
  } else if (order.stream) {
    connection.stream(order.stream).subscribe({
      next: () => {},
      complete: () => tell("answer", { call: order.call, result: null }),
      error: (error) => tell("answer", { call: order.call, error: error.message }),
    });
  } else if (order.stop) {
    await connection.stop();
    tell("stopped");
  }
}

try {
  await connection.start();
  tell("started", { connectionId: connection.connectionId });
} catch (error) {
  tell("failed", { error: error.message });
}
const orders = createInterface({ input: process.stdin });
orders.on("line", (line) => obey(JSON.parse(line)));
orders.on("close", () => process.exit(0));
