"""Two clients of the official Python SDK drive two channels of the built binary: they list what it offers, call every tool,
and check every result against the tool's output schema. Usage: client.py RELAY DATA_DIR"""

import asyncio
import os
import sys

import jsonschema
from mcp import Client, StdioServerParameters
from mcp.shared.exceptions import MCPError

RELAY, DIR = sys.argv[1:]
TOOLS = ["relay_peers", "relay_ask", "relay_reply", "relay_broadcast", "relay_rename", "relay_wait"]


class Session:
    def __init__(self, name):
        cwd = os.path.join(DIR, name)
        os.makedirs(cwd, exist_ok=True)
        env = {"HOME": DIR, "RELAY_DATA_DIR": os.path.join(DIR, "data"), "RELAY_IDLE_EXIT_S": "1"}
        server = StdioServerParameters(command=RELAY, args=["channel"], cwd=cwd, env=env)
        self.notified = asyncio.Event()
        self.client = Client(server, message_handler=self.take)
        self.called = set()

    async def take(self, message):
        if "ResourceListChanged" in type(message).__name__:
            self.notified.set()

    async def __aenter__(self):
        await self.client.__aenter__()
        tools = (await self.client.list_tools()).tools
        assert [tool.name for tool in tools] == TOOLS
        self.schemas = {tool.name: tool.output_schema for tool in tools}
        await self.call("relay_peers")
        return self

    async def __aexit__(self, *why):
        await self.client.__aexit__(*why)

    async def call(self, tool, /, fails=False, **arguments):
        result = await self.client.call_tool(tool, arguments)
        data = result.structured_content
        jsonschema.validate(data, self.schemas[tool])
        assert bool(result.is_error) == fails and data["ok"] is not fails, result
        self.called.add(tool)
        return data


async def main():
    async with Session("alice") as alice:
        assert "relay_wait" in alice.client.instructions
        assert (await alice.client.list_resources(cache_mode="bypass")).resources == []
        async with Session("bob") as bob:
            await play(alice, bob)
        called = alice.called | bob.called
        assert called == set(TOOLS), called


async def play(alice, bob):
    await alice.notified.wait()
    listed = (await alice.client.list_resources(cache_mode="bypass")).resources
    assert [str(resource.uri) for resource in listed] == ["peer://bob"], listed

    waiting = asyncio.create_task(bob.call("relay_wait", timeout_s=30))
    asked = await alice.call("relay_ask", to="bob", question="which port? \U0001f680")
    (question,) = (await waiting)["messages"]
    assert asked["ask_id"] in question and "> which port? \U0001f680" in question, question
    contents = (await alice.client.read_resource("peer://bob", cache_mode="bypass")).contents
    assert asked["ask_id"] in contents[0].text, contents
    await bob.call("relay_reply", ask_id=asked["ask_id"], answer="4711")
    assert "> 4711" in (await alice.call("relay_wait"))["messages"][0]

    sent = await alice.call("relay_broadcast", question="all well?", exclude_self=True, collect_s=20)
    assert sent["peer_count"] == 1
    await bob.call("relay_wait")
    await bob.call("relay_reply", ask_id=sent["asks"][0]["ask_id"], answer="very well")
    assert "> very well" in (await alice.call("relay_wait"))["messages"][0]
    await bob.call("relay_rename", name="builder")
    assert (await alice.call("relay_peers"))["peers"][0]["name"] == "builder"

    for name, arguments, code in [
        ("relay_ask", {"to": "nobody", "question": "?"}, "peer_not_found"),
        ("relay_ask", {"to": "builder"}, "bad_args"),
        ("relay_reply", {"ask_id": "ask_0", "answer": "?"}, "unknown_ask"),
        ("relay_rename", {"name": "alice"}, "name_taken"),
    ]:
        assert (await bob.call(name, fails=True, **arguments))["code"] == code
    try:
        await alice.client.read_resource("peer://nobody", cache_mode="bypass")
        raise AssertionError("a resource that is not there")
    except MCPError as error:
        assert error.code == -32002, error
    prompts = (await alice.client.list_prompts()).prompts
    assert [prompt.name for prompt in prompts] == ["ask", "broadcast"]
    prompt = await alice.client.get_prompt("ask", {"to": "builder", "question": "why?"})
    assert prompt.messages[0].content.text.endswith("why?")
    # One that gives up on a call goes on.
    try:
        await asyncio.wait_for(alice.client.call_tool("relay_wait", {"timeout_s": 60}), 0.5)
        raise AssertionError("nothing was to arrive")
    except TimeoutError:
        pass
    await alice.call("relay_peers")


asyncio.run(asyncio.wait_for(main(), 50))
print("Python SDK: ok")
