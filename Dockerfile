FROM python:3.12-slim

RUN useradd --create-home --uid 1000 mux
WORKDIR /app
COPY pyproject.toml hatch_build.py README.md LICENSE ./
COPY mux_jax mux_jax
COPY configs configs
COPY launch launch
# What is installed is this package; its own file bounds the versions of others.
# hadolint ignore=DL3013
RUN pip install --no-cache-dir '.[serve]'

USER 1000
ENV MUX_JAX_CACHE=/home/mux/cache
EXPOSE 8000
ENTRYPOINT ["python", "launch/serve.py", "--model=/model", "--host=0.0.0.0"]
