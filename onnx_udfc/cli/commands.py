"""The command line: options to Options, exit codes, and the only place that prints.

Imports that cost time are made inside the commands, so that --help is quick.
"""

from __future__ import annotations

import itertools
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from onnx_udfc.cli import options as opts
from onnx_udfc.cli.streams import put, put_json, say, settle
from onnx_udfc.errors import RequestError, UdfcError
from onnx_udfc.interrupts import INTERRUPTED, Interrupts
from onnx_udfc.options import TASKS
from onnx_udfc.outputs import check_writable, same_file
from onnx_udfc.runtime.machine import prepare_process

REPORT_SUFFIXES = (".json", ".html")


@click.group(
    cls=opts.DefaultCommand, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(package_name="onnx-udfc")
def app() -> None:
    """Compress a convolutional ONNX network without data: prune channels, quantize, repair in closed form."""
    prepare_process()


@app.command()
@click.argument("source", metavar="IN", required=False)
@click.argument("out", metavar="OUT", required=False)
@opts.compress_options
@opts.grid_free_options
@opts.input_options
@opts.run_options
@click.option("--attribution", is_flag=True, help="Measure which layer loses what; always on with an HTML report.")
@click.option("--report", metavar="PATH", multiple=True, help="Write the report as .json or .html; repeatable.")
@click.option("--print-config", is_flag=True, help="Print the options as TOML and stop.")
@click.option("--overwrite-input", is_flag=True, help="Allow OUT to be IN.")
@opts.output_options
@click.pass_context
def compress(ctx: click.Context, /, **given: Any) -> None:
    """Compress IN to OUT (the default command)."""
    config = opts.read_config(given["config"])
    reports = tuple(given["report"] or config.get("report", ()))
    options = opts.merged(ctx, config)
    if given["print_config"]:
        click.echo(opts.as_toml(options))
        return
    source, out = _required(given["source"], "IN"), _required(given["out"], "OUT")
    _check_paths(source, out, reports, given["overwrite_input"])
    _compress(ctx, source, out, options, reports, _quiet(given, config), _as_json(given, config))


def _compress(
    ctx: click.Context, source: str, out: str, options: Any, reports: tuple[str, ...], quiet: bool, as_json: bool
) -> None:
    from dataclasses import replace

    from onnx_udfc.cli.progress import Shown
    from onnx_udfc.pipeline import check_out
    from onnx_udfc.pipeline import compress as run

    if any(r.endswith(".html") for r in reports):
        options = replace(options, attribution=True)
    check_out(source, out)
    with Shown(quiet or as_json, options.verbose) as callbacks:
        result = run(source, options, callbacks)
        texts = {path: _rendered(result.report, Path(path).suffix) for path in reports}
        shown = "" if quiet else _summary(result.report, out)
        failed = result.save(out, texts, _interrupts(ctx).moving(f"{out} was already written"))
    # OUT is there: whatever fails from here on is said, and changes nothing
    for line in failed:
        say(f"warning: {line}")
    if as_json:
        put_json(result.report.to_dict(), needed=False)
    else:
        put(shown, needed=False)


def _summary(report: Any, out: str) -> str:
    from onnx_udfc.cli.text import rendered, summary

    return rendered(summary(report, out))


def _interrupts(ctx: click.Context) -> Interrupts:
    """Those of this process; of a call inside another program, ones that do nothing."""
    return ctx.find_object(Interrupts) or Interrupts()


@app.command()
@click.argument("source", metavar="IN")
@click.option("--skip", metavar="PATTERN", multiple=True, help="Node or tensor names left alone; repeatable.")
@opts.output_options
def inspect(source: str, **given: Any) -> None:
    """Show what can be pruned in IN, what cannot, and why."""
    from onnx_udfc.cli.progress import Muted
    from onnx_udfc.evaluate.inspection import inspect_model

    with Muted():
        found = inspect_model(source, given["skip"])
    if given["as_json"]:
        put_json(found.to_dict())
    elif not given["quiet"]:
        from onnx_udfc.cli.text import inspection, rendered

        put(rendered(inspection(found)))


@app.command()
@click.argument("original", metavar="IN")
@click.argument("compressed", metavar="OUT")
@click.option("--images", metavar="DATA", help=".npz (x, y), .npy, folder or zip of images; default: synthetic ones.")
@click.option("--labels", metavar="CSV", help="Rows name,label, where names and folders do not tell.")
@click.option("--task", type=click.Choice(["auto", *TASKS]), default="auto", help="What the outputs say.")
@click.option("--limit", type=int, metavar="N", help="Use at most so many images.")
@click.option("--require", metavar="KEY>=VALUE", multiple=True, help="A gate, e.g. accuracy>=0.9; not met is exit 3.")
@click.option("--seconds", type=float, default=4.0, help="Time to spend on latency, 0 for none.")
@click.option("--memory/--no-memory", default=True, help="Measure peak memory, in processes of their own.")
@click.option("--seed", type=int, default=0, help="Seed of the synthetic inputs.")
@opts.input_options
@opts.run_options
@opts.output_options
def validate(original: str, compressed: str, **given: Any) -> None:
    """Compare OUT with IN: outputs, agreement, accuracy if labelled, latency, memory, bytes."""
    from onnx_udfc.cli.progress import Shown
    from onnx_udfc.evaluate.validate import validate as run
    from onnx_udfc.goals import VALIDATE_REQUIREMENTS, check_requirements, parse_requirement

    requirements = [parse_requirement(r, VALIDATE_REQUIREMENTS) for r in given["require"]]
    with Shown(given["quiet"] or given["as_json"], given["verbose"]) as callbacks:
        found = run(
            original,
            compressed,
            images=given["images"],
            labels=given["labels"],
            preprocessing=opts.preprocessing(given),
            provider=given["provider"],
            task=given["task"],
            threads=given["threads"] or 1,
            limit=given["limit"],
            latency_seconds=given["seconds"],
            memory=given["memory"],
            seed=given["seed"],
            callbacks=callbacks,
        )
    if given["as_json"]:
        put_json(found.to_dict())
    elif not given["quiet"]:
        from onnx_udfc.cli.text import rendered, validation

        put(rendered(validation(found)))
    check_requirements(requirements, {r.key: found.measured(r.key) for r in requirements})


@app.command()
@click.argument("source", metavar="IN")
@click.argument("directory", metavar="DIR")
@click.option("--prune", default="0", metavar="LIST", help="0.1,0.3 or 0.1:0.7:0.1.")
@click.option("--bits", default="32", metavar="LIST", help="E.g. 8,6,4.")
@click.option("--activations", default="none", metavar="LIST", help="E.g. none,8.")
@click.option("--jobs", type=click.IntRange(1), metavar="N", help="Processes [one a core, as memory allows].")
@click.option("--labelled", metavar="DATA", help="Labelled images, for real accuracy in the table and the plot.")
@click.option("--labels", metavar="CSV", help="Rows name,label, where names and folders do not tell.")
@opts.grid_free_options
@opts.input_options
@opts.run_options
@opts.output_options
@click.pass_context
def sweep(ctx: click.Context, /, source: str, directory: str, jobs: int | None, **given: Any) -> None:
    """Compress IN in many settings into DIR: models, a table and a Pareto plot; continues where it stopped."""
    from onnx_udfc.cli.progress import Shown
    from onnx_udfc.sweep_grid import Grid, parse_activations, parse_bits, parse_floats

    options = opts.merged(ctx, opts.read_config(given["config"]), without=("prune", "bits", "activations"))
    grid = Grid(parse_floats(given["prune"]), parse_bits(given["bits"]), parse_activations(given["activations"]))
    from onnx_udfc.inputs.image_files import Labelled  # only now: what is refused is refused quickly
    from onnx_udfc.runtime.machine import fitting_jobs
    from onnx_udfc.sweep import sweep as run

    jobs = jobs or fitting_jobs(Path(source).stat().st_size if Path(source).is_file() else 0)
    images = given["labelled"]
    labelled = Labelled(images, given["labels"], opts.preprocessing(given)) if images else None
    _interrupts(ctx).told(f"what was finished is in {directory}, and the same command goes on from there")
    with Shown(given["quiet"] or given["as_json"], given["verbose"]) as callbacks:
        table = run(source, Path(directory), grid, options, jobs, labelled, callbacks)
    if given["as_json"]:
        put_json(table.to_dict(), needed=False)
    elif not given["quiet"]:
        from onnx_udfc.cli.text import rendered, swept

        put(rendered(swept(table)), needed=False)


def _required(value: str | None, name: str) -> str:
    if value is None:
        raise click.UsageError(f"Missing argument '{name}'.")
    return value


def _quiet(given: Mapping[str, Any], config: Mapping[str, Any]) -> bool:
    return bool(given["quiet"] or config.get("quiet"))


def _as_json(given: Mapping[str, Any], config: Mapping[str, Any]) -> bool:
    return bool(given["as_json"] or config.get("json"))


def _check_paths(source: str, out: str, reports: tuple[str, ...], overwrite: bool) -> None:
    """Refuse now what would fail after minutes of work, or destroy what is read.

    Raises:
        RequestError: One line that says what to change.
    """
    if out == "-":
        raise RequestError("-: results are files, not standard output; name OUT, or ./- for a file of that name")
    if not overwrite and same_file(source, out):
        raise RequestError(
            f"{out}: OUT is IN, and compression cannot be undone; name another, or add --overwrite-input"
        )
    for report in reports:
        if Path(report).suffix not in REPORT_SUFFIXES:
            raise RequestError(f"--report {report}: the name must end in .json or .html")
        if same_file(report, source):
            raise RequestError(f"--report {report}: is IN; name another file")
    for first, second in itertools.combinations((out, *reports), 2):
        if same_file(first, second):
            raise RequestError(f"--report {second}: that file is named twice; name another")
    for path in (out, *reports):
        check_writable(path)


def _rendered(report: Any, suffix: str) -> str:
    if suffix == ".html":
        from onnx_udfc.evaluate.html import to_html

        return to_html(report)
    return str(report.to_json()) + "\n"


def run(call: Callable[[], object], debug: bool) -> int:
    """Return the exit code of a command; every failure is one line on standard error.

    Raises:
        Exception: Whatever the command raised, with `debug`.
    """
    try:
        with warnings.catch_warnings():
            if not debug:  # overflows of damaged weights; what comes of them is checked
                warnings.simplefilter("ignore", RuntimeWarning)
            call()
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.UsageError as error:
        return _fail(f"{error.format_message()} See onnx-udfc --help.", error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        return _fail("interrupted; nothing was written", INTERRUPTED)
    except BrokenPipeError:
        return 1
    except UdfcError as error:
        if debug:
            raise
        return _fail(str(error), error.exit_code)
    except Exception as error:
        if debug:
            raise
        return _fail(_internal(error), 1)
    return 0


def _internal(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'file'}: {error.strerror}"
    if isinstance(error, MemoryError):
        return "not enough memory for this model"
    return f"internal error: {type(error).__name__}: {error}; please report it with the output of --debug"


def _fail(message: str, code: int) -> int:
    say(message)
    return code


def launch(interrupts: Interrupts) -> None:
    """Run the command line of this process and leave with its exit code."""
    code = run(lambda: app.main(obj=interrupts, standalone_mode=False), "--debug" in sys.argv)
    settle()
    sys.exit(code)
