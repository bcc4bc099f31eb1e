// A plug that someone else wrote: one HS100 of tplink-smarthome-simulator, or another of its models (hs110, hs110v2,
// hs220, hs300).
//
//     node plug.js ADDRESS PORT ALIAS MAC DEVICE_ID [MODEL]   with NODE_PATH at the installed packages
//
// It says `ready ADDRESS PORT` once it listens (port 0 takes a free one). Then, line by line from standard input:
//
//     press    presses its button, which toggles the relay; answers `on` or `off`
//     state    answers `on` or `off`
//
// The end of standard input ends it, so that no plug outlives its test. One process is one plug: the package dies of
// a request that is no JSON or that comes in two segments.
"use strict";

const readline = require("node:readline");
const { Device } = require("tplink-smarthome-simulator");

const [address, port, alias, mac, deviceId, model = "hs100"] = process.argv.slice(2);
const plug = new Device({ model, address, port: Number(port), alias, data: { mac, deviceId } });

// A client that resets its connection is no reason to die.
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
