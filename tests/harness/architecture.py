"""The rules of the code's shape, each a pure function from one parsed module to its offences."""

import ast
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
MODULE_LINES: Final = 400
FUNCTION_LINES: Final = 60

# The three places that may catch everything: they log it and make an error of ours of it.
BLIND_EXCEPT: Final = {
    "router.guard",  # the outermost layer of ASGI
    "backends.mlx_backend.batch",  # one row's sampler
    "backends.mlx_backend.engine",  # one step of the engine
    "backends.mlx_backend.self_test",  # whatever a model fails with
    "backends.managed_process",  # the owner loop of a process
}
# Where the GPU's context lives; everything else of the backend runs without MLX.
MLX_MODULES: Final = {
    f"backends.mlx_backend.{name}"
    for name in (
        "batch",
        "convert",
        "embeddings",
        "engine",
        "loaded",
        "models",
        "prefill",
        "prefix_cache",
        "prompt",
        "sampling",
        "self_test",
        "template",
        "token_mask",
        "vision",
    )
} | {
    "backends.mlx_backend.__main__",  # imports it first of all, to tell how far the start is
}
# llguidance needs no GPU, and is installed only where MLX is.
GRAMMAR_MODULES: Final = {
    "backends.mlx_backend.grammar",
    "backends.mlx_backend.token_mask",
}
# What may be imported inside a function, and where: what is heavy and not needed at once.
LAZY_IMPORTS: Final = {
    "router.app": ("router.admin", "router.probes", "router.providers", "router.store"),
    "router.reaches": ("router.upstream.tls",),
    "router.images": ("router.images.fetch",),
    "router.enforcement": ("router.schema_check",),
    "router.keys": ("keyring",),
    "router.translate": ("litellm", "httpx"),
    "router.store": ("alembic",),
    "router.upstream": ("router.upstream.tls",),
    "router.cli": ("router.cli", "httpx2", "rich", "router.app", "backends.downloads"),
    "backends.mlx_backend": ("backends.mlx_backend", "mlx", "mlx_vlm", "uvicorn"),
}


_ENVIRONMENT: Final = {
    f"os.{name}" for name in ("environ", "environb", "getenv", "getenvb", "putenv", "unsetenv")
}


@dataclass(frozen=True, slots=True)
class Module:
    """One parsed module of the product."""

    name: str
    text: str
    tree: ast.Module


Rule = Callable[[Module], Iterator[str]]


@cache
def modules() -> tuple[Module, ...]:
    """Return every module of the product."""
    return tuple(
        module_from(".".join(path.relative_to(ROOT).with_suffix("").parts), path.read_text("utf-8"))
        for package in ("router", "backends")
        for path in sorted((ROOT / package).rglob("*.py"))
    )


def module_from(name: str, text: str) -> Module:
    """Parse one module."""
    return Module(name.removesuffix(".__init__"), text, ast.parse(text))


def long_modules(module: Module) -> Iterator[str]:
    """Find modules over 400 lines: one fits in a reader's head."""
    if (lines := len(module.text.splitlines())) > MODULE_LINES:
        yield f"{module.name} has {lines} lines"


def long_functions(module: Module) -> Iterator[str]:
    """Find functions over 60 lines: one fits on a screen."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > FUNCTION_LINES:
                yield f"{module.name}:{node.lineno} {node.name} has {lines} lines"


def global_statements(module: Module) -> Iterator[str]:
    """Find `global`: state has an owner, and a module is none."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Global):
            yield f"{module.name}:{node.lineno} global {', '.join(node.names)}"


def blind_excepts(module: Module) -> Iterator[str]:
    """Find broad handlers that do not re-raise, but for the three named places."""
    if module.name in BLIND_EXCEPT:
        return
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ExceptHandler) and _is_broad(node.type) and not _reraises(node):
            yield f"{module.name}:{node.lineno} catches everything"
        if isinstance(node, ast.Call) and _is_broad_suppress(node):
            yield f"{module.name}:{node.lineno} suppresses everything"


def _is_broad_suppress(call: ast.Call) -> bool:
    return ast.unparse(call.func).endswith("suppress") and any(map(_is_broad, call.args))


def _is_broad(kind: ast.expr | None) -> bool:
    names = kind.elts if isinstance(kind, ast.Tuple) else [kind]
    return any(
        name is None or ast.unparse(name).rpartition(".")[2] in {"Exception", "BaseException"}
        for name in names
    )


def _reraises(handler: ast.ExceptHandler) -> bool:
    last = handler.body[-1]
    return isinstance(last, ast.Raise) and last.exc is None


def environment_readings(module: Module) -> Iterator[str]:
    """Find readings of the environment elsewhere than in settings and at a process's begin."""
    allowed = module.name in {"router.keys", "router.translate"} or module.name.startswith(
        "router.settings"
    )
    if allowed or module.name.endswith(".__main__"):
        return
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node) in _ENVIRONMENT:
            yield f"{module.name}:{node.lineno} {ast.unparse(node)}"
    for line, name in imported(module.tree):
        if name in _ENVIRONMENT:
            yield f"{module.name}:{line} {name}"


def process_starts(module: Module) -> Iterator[str]:
    """Find starts of processes: they belong to backends only."""
    if module.name.startswith("backends"):
        return
    for line, name in imported(module.tree):
        if name.partition(".")[0] in {"subprocess", "multiprocessing", "pty"}:
            yield f"{module.name}:{line} {name}"
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Attribute):
            name = ast.unparse(node)
            if name.startswith(("os.fork", "os.exec", "os.spawn", "os.posix_spawn", "os.system")):
                yield f"{module.name}:{node.lineno} {name}"
            if node.attr in {"create_subprocess_exec", "create_subprocess_shell"}:
                yield f"{module.name}:{node.lineno} {name}"


def misplaced_imports(module: Module) -> Iterator[str]:
    """Find litellm outside its one module, MLX outside those that own the GPU's context."""
    for line, name in imported(module.tree):
        root = name.partition(".")[0]
        if root == "litellm" and module.name != "router.translate":
            yield f"{module.name}:{line} {name}"
        if root in {"mlx", "mlx_vlm"} and module.name not in MLX_MODULES:
            yield f"{module.name}:{line} {name}"
        if root == "llguidance" and module.name not in GRAMMAR_MODULES:
            yield f"{module.name}:{line} {name}"


def late_imports(module: Module) -> Iterator[str]:
    """Find imports inside functions: they are for what is heavy and listed."""
    allowed = tuple(
        f"{name}."
        for prefix, names in LAZY_IMPORTS.items()
        if f"{module.name}.".startswith(f"{prefix}.")
        for name in names
    )
    for function in ast.walk(module.tree):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            for line, name in imported(function):
                if not f"{name}.".startswith(allowed):
                    yield f"{module.name}:{line} {name}"


def foreign_words(module: Module) -> Iterator[str]:
    """Find what `backends.wire` imports besides the standard library."""
    if module.name == "backends.wire":
        for line, name in imported(module.tree):
            if name.partition(".")[0] not in sys.stdlib_module_names:
                yield f"{module.name}:{line} {name}"


def imported(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield the line and the full name of everything that a tree imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for name in node.names:
                yield node.lineno, name.name
        elif isinstance(node, ast.ImportFrom):
            for name in node.names:
                yield node.lineno, f"{node.module or ''}.{name.name}"
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            first = node.args[0] if node.args else None
            if isinstance(first, ast.Constant):
                yield node.lineno, str(first.value)


RULES: Final[tuple[Rule, ...]] = (
    long_modules,
    long_functions,
    global_statements,
    blind_excepts,
    environment_readings,
    process_starts,
    misplaced_imports,
    late_imports,
    foreign_words,
)
