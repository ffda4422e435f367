import json
import signal
import time
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from demo.job import Job
from demo.rest import StepFailed
from demo.screen import Screen
from factory import demo_tenants, first_run, processes
from factory.management.commands.up import SECOND, interrupt


class Command(BaseCommand):
    help = "Run the platform and show the whole chain on it, with real processes throughout."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--exit", action="store_true", help="end after the job, do not stay up")

    def handle(self, *args: Any, **options: Any) -> None:
        screen = Screen()
        agent = ["--pool", "local", "--create-pool", "--stop-processes-on-exit"]
        platform = processes.Platform(say=screen.line, agent_options=agent)
        signal.signal(signal.SIGTERM, interrupt)
        try:
            with processes.only_platform_here():
                self._run(platform, screen, stay=not options["exit"])
        except processes.PlatformError as error:
            raise CommandError(str(error)) from error

    def _run(self, platform: processes.Platform, screen: Screen, *, stay: bool) -> None:
        try:
            with screen.step("Start PostgreSQL, Redis and the platform"):
                processes.start_services()
                first_run.bring_up_to_date()
                operator, password = first_run.ensure_operator()
                tenants = demo_tenants.ensure_tenants(now=timezone.now())
                platform.start()
            folder = Path(settings.FACTORY_DATA) / "demo"
            job = Job(
                base_url=settings.FACTORY_BASE_URL,
                keys=tenants.keys,
                folder=folder,
                screen=screen,
                month=f"{timezone.now():%Y-%m}",
                is_alive=lambda step: platform.tend(),
            )
            report = job.run()
            (folder / "report.json").write_text(json.dumps(report, indent=2))
            self._summarize(screen)
            screen.line(f"\n    Console   {settings.FACTORY_BASE_URL}/")
            screen.line(f"    Tenant    {tenants.username} / {tenants.password}")
            screen.line(f"    Operator  {operator} / {password}   (also at /admin/)")
            if stay:
                screen.line("\n    The platform stays up. Ctrl-C stops it.")
            while stay:
                platform.tend()
                time.sleep(SECOND)
        except StepFailed as error:
            raise CommandError(f"The demo stopped: {error}\nLogs: {platform.logs}") from error
        except KeyboardInterrupt:
            screen.line("Stopping ...")
        finally:
            platform.stop()

    def _summarize(self, screen: Screen) -> None:
        screen.line("\n    Seconds by step")
        rows = [["step", "seconds"]]
        rows += [[title, f"{seconds:.1f}"] for title, seconds in screen.seconds.items()]
        rows.append(["all", f"{sum(screen.seconds.values()):.1f}"])
        screen.table(rows)
