# One image for every process of the platform; compose says which one a container runs.
FROM python:3.11-slim-bookworm

RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 10001 factory

WORKDIR /srv/ai-factory
COPY requirements.txt ./
RUN pip install --no-cache-dir -r requirements.txt
COPY --chown=factory:factory . .
RUN install -d -o factory -g factory /var/lib/ai-factory \
    && FACTORY_SECRET_KEY=build DATABASE_URL=postgresql://build/build REDIS_URL=redis://build \
       FACTORY_BASE_URL=http://localhost:8000 DJANGO_SETTINGS_MODULE=factory.settings.prod \
       python manage.py collectstatic --noinput \
    && chown -R factory:factory .factory

USER factory
ENV DJANGO_SETTINGS_MODULE=factory.settings.prod \
    FACTORY_DATA=/var/lib/ai-factory \
    PYTHONUNBUFFERED=1
EXPOSE 8000
CMD ["uvicorn", "factory.asgi:application", "--host", "0.0.0.0", "--port", "8000", "--lifespan", "on", "--no-access-log"]
