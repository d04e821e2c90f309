"""A real Home Assistant with only MQTT, in its own process: run with the Python that has it installed.

Usage: home_assistant.py FOLDER PORT. Prints READY, then answers each line of JSON on standard input with the states of
all entities: {"call": [DOMAIN, SERVICE, ENTITY]} calls a service first.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from typing import Any

from homeassistant import auth, bootstrap, config_entries, core, loader, setup
from homeassistant.helpers import device_registry


async def standard_input() -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    return reader


async def start(folder: str, port: int) -> core.HomeAssistant:
    hass = core.HomeAssistant(folder)
    loader.async_setup(hass)
    hass.config_entries = config_entries.ConfigEntries(hass, {})
    await bootstrap.async_load_base_functionality(hass)
    hass.auth = await auth.auth_manager_from_config(hass, [], [])
    await setup.async_setup_component(hass, "homeassistant", {})
    await hass.async_start()
    entry = config_entries.ConfigEntry(
        data={"broker": "127.0.0.1", "port": port, "discovery": True},
        domain="mqtt",
        title="mqtt",
        version=1,
        minor_version=2,
        options={},
        source="user",
        unique_id=None,
        discovery_keys={},
    )
    await hass.config_entries.async_add(entry)
    return hass


def states(hass: core.HomeAssistant) -> dict[str, Any]:
    devices = {
        device.name: {"model": device.model, "via": device.via_device_id is not None}
        for device in device_registry.async_get(hass).devices.values()
    }
    entities = {
        state.entity_id: {"state": state.state, **json.loads(json.dumps(dict(state.attributes), default=str))}
        for state in hass.states.async_all()
    }
    return {"devices": devices, "entities": entities}


async def main(folder: str, port: int) -> None:
    reader = await standard_input()
    hass = await start(folder, port)
    print("READY", flush=True)
    while line := await reader.readline():
        order = json.loads(line)
        if "call" in order:
            domain, service, entity = order["call"]
            await hass.services.async_call(domain, service, {"entity_id": entity}, blocking=True)
        print(json.dumps(states(hass)), flush=True)
    await hass.async_stop(force=True)


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
