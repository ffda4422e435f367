"""Django's own checks, missing migrations and the OpenAPI description, in one process."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))


def main() -> int:
    import django
    from django.conf import settings
    from django.core.management import CommandError, call_command

    from factory import embedded

    django.setup()
    if settings.FACTORY_EMBEDDED_POSTGRES:
        embedded.start_postgres(settings.FACTORY_DATA)
    try:
        call_command("check")
        call_command("makemigrations", check=True, dry_run=True)
        call_command("spectacular", fail_on_warn=True, validate=True, file=os.devnull)
    except (CommandError, SystemExit) as error:
        print(error)
        return 1
    finally:
        if settings.FACTORY_EMBEDDED_POSTGRES:
            embedded.stop_postgres(settings.FACTORY_DATA)
    return 0


if __name__ == "__main__":
    sys.exit(main())
