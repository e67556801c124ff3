"""What holds in all tests: eight virtual CPU devices for sharding, and public calls checked by their shapes."""

import importlib.metadata
import os
import signal
import tempfile

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"  # axes are never added in silence
# Compiling is most of what these tests do; how well the code runs changes no result they look at.
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
os.environ["XLA_FLAGS"] += " --xla_llvm_disable_expensive_passes=true"
if importlib.metadata.version("jax").startswith("0.10."):  # later ones do not know this flag
    os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"
# What one test, or a command that it runs, has compiled is there for all of them.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _cache = tempfile.TemporaryDirectory(prefix="mux_jax_tests_", ignore_cleanup_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _cache.name
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"

import jaxtyping

# The arguments and results of public calls are checked against their annotations.
_PUBLIC = ["mux_jax.models.model", "mux_jax.models.multiplexers", "mux_jax.models.demultiplexers"]
jaxtyping.install_import_hook(_PUBLIC, "beartype.beartype")

# What a shell puts in the background has Ctrl-C ignored; so would the processes that tests start.
for _number, _handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(_number) == signal.SIG_IGN:
        signal.signal(_number, _handler)
