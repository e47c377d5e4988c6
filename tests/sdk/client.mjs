// Two clients of the official TypeScript SDK drive two channels of the built binary: they list what it offers, call every
// tool, and check every result against the tool's output schema. Usage: node client.mjs RELAY DATA_DIR
import assert from "node:assert/strict";
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { Ajv } from "ajv";
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StdioClientTransport } from "@modelcontextprotocol/sdk/client/stdio.js";
import { ResourceListChangedNotificationSchema } from "@modelcontextprotocol/sdk/types.js";

const [relay, dir] = process.argv.slice(2);
const ajv = new Ajv({ strict: true, strictRequired: false, allowUnionTypes: true });
const TOOLS = ["relay_peers", "relay_ask", "relay_reply", "relay_broadcast", "relay_rename", "relay_wait"];

class Session {
  constructor(name) {
    this.name = name;
    this.called = new Set();
  }

  async start() {
    const cwd = join(dir, this.name);
    mkdirSync(cwd, { recursive: true });
    const env = { HOME: dir, PATH: process.env.PATH, RELAY_DATA_DIR: join(dir, "data"), RELAY_IDLE_EXIT_S: "1" };
    this.client = new Client({ name: "typescript-sdk", version: "1" });
    await this.client.connect(new StdioClientTransport({ command: relay, args: ["channel"], cwd, env }));
    const { tools } = await this.client.listTools(); // from here on the SDK checks results against their schemas, too
    this.schemas = new Map(tools.map((tool) => [tool.name, ajv.compile(tool.outputSchema)]));
    assert.deepEqual(tools.map((tool) => tool.name), TOOLS);
    await this.call("relay_peers");
    return this;
  }

  async call(name, args = {}, fails = false) {
    const result = await this.client.callTool({ name, arguments: args });
    const validate = this.schemas.get(name);
    assert.ok(validate(result.structuredContent), `${name}: ${ajv.errorsText(validate.errors)}`);
    assert.equal(result.structuredContent.ok, !fails, JSON.stringify(result));
    assert.equal(result.isError ?? false, fails);
    this.called.add(name);
    return result.structuredContent;
  }
}

const alice = await new Session("alice").start();
assert.match(alice.client.getInstructions(), /relay_wait/);
assert.deepEqual((await alice.client.listResources()).resources, []);
const changed = new Promise((resolve) =>
  alice.client.setNotificationHandler(ResourceListChangedNotificationSchema, resolve),
);
const bob = await new Session("bob").start();
await changed;
assert.deepEqual((await alice.client.listResources()).resources.map((r) => r.uri), ["peer://bob"]);

const waiting = bob.call("relay_wait", { timeout_s: 30 });
const asked = await alice.call("relay_ask", { to: "bob", question: "which port? \u{1f680}" });
const [question] = (await waiting).messages;
assert.ok(question.includes(asked.ask_id) && question.includes("> which port? \u{1f680}"), question);
const read = await alice.client.readResource({ uri: "peer://bob" });
assert.ok(read.contents[0].text.includes(asked.ask_id), read.contents[0].text);
await bob.call("relay_reply", { ask_id: asked.ask_id, answer: "4711" });
assert.ok((await alice.call("relay_wait")).messages[0].includes("> 4711"));

const all = await alice.call("relay_broadcast", { question: "all well?", exclude_self: true, collect_s: 20 });
assert.equal(all.peer_count, 1);
await bob.call("relay_wait");
await bob.call("relay_reply", { ask_id: all.asks[0].ask_id, answer: "very well" });
assert.ok((await alice.call("relay_wait")).messages[0].includes("> very well"));
await bob.call("relay_rename", { name: "builder" });
assert.equal((await alice.call("relay_peers")).peers[0].name, "builder");

for (const [name, args, code] of [
  ["relay_ask", { to: "nobody", question: "?" }, "peer_not_found"],
  ["relay_ask", { to: "builder" }, "bad_args"],
  ["relay_reply", { ask_id: "ask_0", answer: "?" }, "unknown_ask"],
  ["relay_rename", { name: "alice" }, "name_taken"],
]) {
  assert.equal((await bob.call(name, args, true)).code, code);
}
await assert.rejects(alice.client.readResource({ uri: "peer://nobody" }), { code: -32002 });
const { prompts } = await alice.client.listPrompts();
assert.deepEqual(prompts.map((prompt) => prompt.name), ["ask", "broadcast"]);
const prompt = await alice.client.getPrompt({ name: "ask", arguments: { to: "builder", question: "why?" } });
assert.match(prompt.messages[0].content.text, /why\?$/);
await alice.client.ping();
assert.deepEqual([...alice.called, ...bob.called].filter((t, i, a) => a.indexOf(t) === i).sort(), [...TOOLS].sort());
await alice.client.close();
await bob.client.close();
console.log("TypeScript SDK: ok");
