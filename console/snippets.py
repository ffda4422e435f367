"""Programs that people copy: OpenAI's own client, pointed at this platform."""

from django.conf import settings

_PLACE = "sk-af-..."


def chat(model: str) -> str:
    """How a model is called."""
    return _with_client(
        "answer = client.chat.completions.create(\n"
        f'    model="{model}",\n'
        '    messages=[{"role": "user", "content": "Hello"}],\n'
        ")\n"
        "print(answer.choices[0].message.content)"
    )


def fine_tune(model: str = "...") -> str:
    """How a model is fine-tuned on a file."""
    return _with_client(
        'file = client.files.create(file=open("train.jsonl", "rb"), purpose="fine-tune")\n'
        "job = client.fine_tuning.jobs.create(\n"
        f'    model="{model}", training_file=file.id, suffix="support"\n'
        ")\n"
        "print(job.id, job.status)"
    )


def with_secret(secret: str, model: str) -> list[tuple[str, str]]:
    """The first call with a new key, in three languages: name and program."""
    url = f"{settings.FACTORY_BASE_URL}/v1"
    return [
        (
            "curl",
            f"curl {url}/chat/completions \\\n"
            f'  -H "Authorization: Bearer {secret}" \\\n'
            '  -H "Content-Type: application/json" \\\n'
            f'  -d \'{{"model": "{model}", "messages": [{{"role": "user", "content": "Hello"}}]}}\'',
        ),
        ("Python", chat(model).replace(_PLACE, secret)),
        (
            "Node.js",
            'import OpenAI from "openai";\n\n'
            f'const client = new OpenAI({{ baseURL: "{url}", apiKey: "{secret}" }});\n'
            "const answer = await client.chat.completions.create({\n"
            f'  model: "{model}",\n'
            '  messages: [{ role: "user", content: "Hello" }],\n'
            "});\n"
            "console.log(answer.choices[0].message.content);",
        ),
    ]


def rest_with_secret(secret: str) -> list[tuple[str, str]]:
    """The first call with a new key that is not for inference: name and program."""
    url = f"{settings.FACTORY_BASE_URL}/api/v1/organization/"
    return [("curl", f'curl {url} -H "Authorization: Bearer {secret}"')]


def tensorboard(name: str) -> str:
    """How the ZIP file of a run, or of several, is looked at; `name` is the file's before
    `-tensorboard.zip`."""
    return (
        f"unzip {name}-tensorboard.zip -d runs\npip install tensorboard\ntensorboard --logdir runs"
    )


def _with_client(program: str) -> str:
    return (
        "from openai import OpenAI\n\n"
        f'client = OpenAI(base_url="{settings.FACTORY_BASE_URL}/v1", api_key="{_PLACE}")\n'
        f"{program}"
    )
