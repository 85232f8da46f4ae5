"""A gateway: a device to the coordinator, a coordinator to the devices of its own site.

Its devices train, and one mean of their updates goes up, weighted by their examples: a site's uplink
carries one update, and the model becomes what it would without the gateway. Join it like a device
(`fedloom device join`), make a fleet of its own (`fedloom fleet init`), invite the site's devices to that.
"""

import argparse
import logging
import sys
from pathlib import Path

from fedloom_edge.config import add_config_argument
from fedloom_server.link.options import add_link_arguments

SECTIONS = ("guard",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `fedloom gateway`."""
    parser.add_argument(
        "--home", type=Path, metavar="DIR", help="the folder that it joined with; default: ~/.fedloom"
    )
    parser.add_argument("--coordinator", metavar="HOST:PORT", help="default: where it joined")
    parser.add_argument("--task", metavar="TASK", help="built-in task, or a file on this machine")
    add_link_arguments(parser)
    add_config_argument(parser, *SECTIONS)


def run(arguments: argparse.Namespace) -> int:
    """Run `fedloom gateway`; returns the exit code."""
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.INFO, stream=sys.stderr)
    from fedloom_client.device.agent import Agent
    from fedloom_client.device.home import DeviceSettings, default_home
    from fedloom_client.device.identity import Identity
    from fedloom_client.device.reading import load_task_light
    from fedloom_client.device.running import Status, run_until_stopped
    from fedloom_client.device.starting import task_digest
    from fedloom_edge.config import override, parse_settings
    from fedloom_edge.errors import InputError
    from fedloom_protos.v1 import link_pb2 as pb
    from fedloom_server.fleet.fleet import Fleet
    from fedloom_server.gateway.site import Site, SiteSettings, SiteSupply
    from fedloom_server.gateway.worker import SiteWorker
    from fedloom_server.grids.flower_ids import adopt_identity
    from fedloom_server.guard.norms import GuardSettings
    from fedloom_server.link.options import check_link, enrol_address

    quorum = check_link(arguments)
    guard = override(GuardSettings(), parse_settings(arguments.settings, SECTIONS)["guard"], "guard")
    home = arguments.home or default_home()
    settings = DeviceSettings.load(home).changed(coordinator=arguments.coordinator, task=arguments.task)
    if not settings.coordinator:
        raise InputError("no coordinator is known; join a fleet first, or give --coordinator HOST:PORT")
    identity = Identity.load(home)
    task, digest = load_task_light(settings.task), task_digest(settings.task)
    fleet = Fleet(arguments.fleet)
    fleet.refresh()
    adopt_identity()
    site = Site(
        SiteSettings(
            home=home,
            task=task.name,
            task_digest=digest,
            listen=arguments.listen,
            enrol=enrol_address(arguments.listen, arguments.enrol),
            min_devices=arguments.min_devices,
            quorum=quorum,
            heartbeat=quorum.heartbeat,
        ),
        fleet,
    )
    status = Status(home, settings.coordinator)
    hello = pb.Hello(trainer="gateway", task=task.name, task_digest=digest)
    worker = SiteWorker(site, task.preprocess, guard)
    agent = Agent(
        home,
        settings.coordinator,
        identity,
        worker,
        hello,
        settings.max_temperature_c,
        status.note,
        SiteSupply(site),
    )
    return run_until_stopped(agent, status, None, site.close)
