import signal
import time
from types import FrameType
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from factory import first_run, processes

SECOND = 1.0


class Command(BaseCommand):
    help = "Run the platform on this machine: web, control, beat and one agent, until Ctrl-C."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--pool", default="local", help="the local agent's pool")
        parser.add_argument("--cpu-accelerators", type=int, help="in how many to split the cores")

    def handle(self, *args: Any, **options: Any) -> None:
        agent = ["--pool", options["pool"], "--create-pool", "--stop-processes-on-exit"]
        if options["cpu_accelerators"]:
            agent += ["--cpu-accelerators", str(options["cpu_accelerators"])]
        platform = processes.Platform(say=self.stdout.write, agent_options=agent)
        signal.signal(signal.SIGTERM, interrupt)
        try:
            with processes.only_platform_here():
                self._run(platform)
        except processes.PlatformError as error:
            raise CommandError(str(error)) from error

    def _run(self, platform: processes.Platform) -> None:
        try:
            processes.start_services()
            first_run.bring_up_to_date()
            name, password = first_run.ensure_operator()
            platform.start()
            self.stdout.write(f"AI Factory is ready: {settings.FACTORY_BASE_URL}/")
            self.stdout.write(f"Sign in as {name} with {password}. Ctrl-C stops it.")
            while True:
                platform.tend()
                time.sleep(SECOND)
        except KeyboardInterrupt:
            self.stdout.write("Stopping ...")
        finally:
            platform.stop()


def interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
