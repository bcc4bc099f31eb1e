// A plug that others wrote: one HS100 of tplink-smarthome-simulator, or another of its models (hs110, hs110v2,
// hs220, hs300).
//
//     node plug.js ADDRESS PORT ALIAS MAC DEVICE_ID [MODEL]   with NODE_PATH at the installed packages
//
// It prints `ready ADDRESS PORT` once it listens (port 0 takes a free one). Then, line by line from standard input:
//
//     press    presses its button, which toggles the relay; answers `on` or `off`
//     state    answers `on` or `off`
//
// It stops at the end of standard input, so that no plug outlives its test. Each plug has its own process: the package
// crashes on a request that is not JSON or that comes in two segments.
"use strict";

const readline = require("node:readline");
const { Device } = require("tplink-smarthome-simulator");

const [address, port, alias, mac, deviceId, model = "hs100"] = process.argv.slice(2);
const plug = new Device({ model, address, port: Number(port), alias, data: { mac, deviceId } });

// A reset by a client must not end the process.
plug.deviceNetworking.on("error", (error) => console.error(`plug: ${error.message}`));

const say = (line) => process.stdout.write(`${line}\n`);
const relay = () => plug.data.system.sysinfo.relay_state;

const commands = {
  press: () => {
    plug.api.system.set_relay_state({ state: 1 - relay() });
    commands.state();
  },
  state: () => say(relay() === 1 ? "on" : "off"),
};

plug.start().then(
  () => {
    say(`ready ${plug.address} ${plug.port}`);
    const lines = readline.createInterface({ input: process.stdin });
    lines.on("line", (line) => (commands[line] ?? (() => say(`unknown command: ${line}`)))());
    lines.on("close", () => process.exit(0));
  },
  (error) => {
    console.error(`plug: ${error.message}`);
    process.exit(1);
  },
);
