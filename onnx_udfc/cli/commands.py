"""The command line: options to Options, exit codes, and the only place that prints.

Imports that cost time are made inside the commands, so that --help is quick.
"""

from __future__ import annotations

import itertools
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import click

from onnx_udfc.cli import options as opts
from onnx_udfc.cli.examples import EXAMPLES
from onnx_udfc.cli.guards import check_argument, check_replaced, check_swapped, check_there
from onnx_udfc.cli.streams import put, put_json, say, settle
from onnx_udfc.errors import RequestError, UdfcError
from onnx_udfc.interrupts import INTERRUPTED, Interrupts
from onnx_udfc.options import (
    LINE,
    CombinationError,
    Inspecting,
    Judging,
    Options,
    Sweeping,
    Writing,
    check_requirements,
    with_goal,
)
from onnx_udfc.outputs import check_writable, same_file
from onnx_udfc.runtime.machine import prepare_process

FILE = click.Path()  # for completion: what is there is looked at later
SWEPT = ("prune", "bits", "activations")  # what a sweep combines


@click.group(cls=opts.DefaultCommand, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80})
@click.version_option(package_name="onnx-udfc")
def app() -> None:
    """Compress a convolutional ONNX network without data: prune channels, quantize, repair in closed form."""
    prepare_process()


@app.command(cls=opts.TableCommand, examples=EXAMPLES["compress"])
@click.argument("source", metavar="IN", type=FILE, required=False)
@click.argument("out", metavar="OUT", type=FILE, required=False)
@opts.options_of(Options, Writing)
@click.pass_context
def compress(ctx: click.Context, /, **given: Any) -> None:
    """Compress IN to OUT (the default command)."""
    asked = opts.written(ctx, Options, Writing)
    options, writing = asked.read(Options), asked.read(Writing)
    options = with_goal(options, {**asked.file, **asked.line})
    options.check(asked.voice)
    if writing.print_config:
        click.echo(opts.as_toml(options))
        return
    source = check_argument(given["source"], "IN")
    if options.dry_run:
        check_there(source)
        _plan(source, given["out"], options, writing)
        return
    out = check_argument(given["out"], "OUT")
    check_swapped(source, out)
    check_there(source)
    _check_paths(source, out, writing.report, writing.overwrite_input)
    _compress(ctx, source, out, options, writing.report, writing.quiet, writing.json)


def _plan(source: str, out: str | None, options: Any, writing: Writing) -> None:
    """Print what would be done; OUT may be left out."""
    from onnx_udfc.cli.progress import Shown
    from onnx_udfc.pipeline import compress as run

    if writing.report:
        raise CombinationError(f"--report {writing.report[0]}: --dry-run writes nothing; take --json")
    with Shown(writing.quiet or writing.json, options.verbose) as callbacks:
        report = run(source, options, callbacks).report
    _show(report if out is None else report.saved_as(out), "plan", writing)


def _show(
    found: Any, words: Literal["plan", "inspection", "validation", "swept"], asked: Any, needed: bool = True
) -> None:
    """Print what was found as JSON, or as the function of `cli.text` tells it; nothing where quiet is asked for."""
    if asked.json:
        put_json(found.to_dict(), needed)
    elif not asked.quiet:
        from onnx_udfc.cli import text

        put(text.rendered(getattr(text, words)(found)), needed)


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
    if not options.force and not same_file(source, out):
        check_replaced(source, out)
    with Shown(quiet or as_json, options.verbose) as callbacks:
        result = run(source, options, callbacks)
        report = result.report.saved_as(out)
        texts = {path: _rendered(report, Path(path).suffix) for path in reports}
        shown = "" if quiet else _summary(report, out)
        failed = result.save(out, texts, _interrupts(ctx).moving(f"{out} was already written"))
    # OUT is there: whatever fails from here on is said, and changes nothing
    for line in failed:
        say(f"warning: {line}")
    _alarm(report)
    if as_json:
        put_json(report.to_dict(), needed=False)
    else:
        put(shown, needed=False)


def _alarm(report: Any) -> None:
    """Say that a result cannot be used, whatever else is printed."""
    from onnx_udfc.evaluate.wording import unusable_words

    words = unusable_words(report)
    if words:
        say(words, alarming=True)


def _summary(report: Any, out: str) -> str:
    from onnx_udfc.cli.text import rendered, summary

    return rendered(summary(report, out))


def _interrupts(ctx: click.Context) -> Interrupts:
    """Those of this process; of a call inside another program, ones that do nothing."""
    return ctx.find_object(Interrupts) or Interrupts()


@app.command(cls=opts.TableCommand, examples=EXAMPLES["inspect"])
@click.argument("source", metavar="IN", type=FILE)
@opts.options_of(Inspecting)
@click.pass_context
def inspect(ctx: click.Context, /, source: str, **_: Any) -> None:
    """Show what can be pruned in IN, what cannot, and why."""
    asked = opts.written(ctx).read(Inspecting)
    check_there(source)
    from onnx_udfc.cli.progress import Muted
    from onnx_udfc.evaluate.inspection import inspect_model

    with Muted():
        found = inspect_model(source, asked.skip, asked.input_shape)
    _show(found, "inspection", asked)


@app.command(cls=opts.TableCommand, examples=EXAMPLES["validate"])
@click.argument("original", metavar="IN", type=FILE)
@click.argument("compressed", metavar="OUT", type=FILE)
@opts.options_of(Judging)
@click.pass_context
def validate(ctx: click.Context, /, original: str, compressed: str, **_: Any) -> None:
    """Compare OUT with IN: outputs, agreement, accuracy if labelled, latency, memory, bytes."""
    from onnx_udfc.cli.progress import Shown

    asked = opts.written(ctx).read(Judging)
    asked.check(lambda _: LINE)
    check_there(original, compressed)
    from onnx_udfc.judging import judged  # only now: what is refused is refused quickly

    with Shown(asked.quiet or asked.json, asked.verbose) as callbacks:
        found = judged(original, compressed, asked, callbacks)
    _alarm(found)
    _show(found, "validation", asked)
    check_requirements(asked.require, {r.key: found.measured(r.key) for r in asked.require})


@app.command(cls=opts.TableCommand, examples=EXAMPLES["sweep"])
@click.argument("source", metavar="IN", type=FILE)
@click.argument("directory", metavar="DIR", type=FILE)
@opts.options_of(Options, Sweeping)
@click.pass_context
def sweep(ctx: click.Context, /, source: str, directory: str, **_: Any) -> None:
    """Compress IN in many settings into DIR: models, a table and a Pareto plot; continues where it stopped."""
    from onnx_udfc.cli.progress import Shown

    written = opts.written(ctx, Options, Writing, Sweeping)
    options, asked = written.read(Options, SWEPT), written.read(Sweeping)
    options.check(written.voice)
    check_there(source)
    from onnx_udfc.pipeline import compress  # only now: what is refused is refused quickly
    from onnx_udfc.sweep import swept as run

    _interrupts(ctx).told(f"what was finished is in {directory}, and the same command goes on from there")
    with Shown(asked.quiet or asked.json, options.verbose) as callbacks:
        table = run(source, directory, options, asked, callbacks, compress=compress)
    _show(table, "swept", asked, needed=False)
    table.check_made()


def _check_paths(source: str, out: str, reports: tuple[str, ...], overwrite: bool) -> None:
    """Refuse now what would fail after minutes of work, or destroy what is read."""
    if not overwrite and same_file(source, out):
        raise RequestError(
            f"{out}: OUT is IN, and compression cannot be undone; name another, or add --overwrite-input"
        )
    for report in reports:
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
        where = error.ctx.command_path if error.ctx else "onnx-udfc"
        return _fail(f"{error.format_message().rstrip('.')}; see {where} --help", error.exit_code)
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
    if isinstance(error, RuntimeError) and "can't start new thread" in str(error):  # Python's words
        return "the system allows no more threads; raise its limits (ulimit -u, ulimit -v)"
    return f"internal error: {type(error).__name__}: {error}; please report it with the output of --debug"


def _fail(message: str, code: int) -> int:
    say(message)
    return code


def launch(interrupts: Interrupts) -> None:
    """Run the command line of this process and leave with its exit code."""

    def main() -> None:
        try:
            app.main(prog_name="onnx-udfc", obj=interrupts, standalone_mode=False)
        finally:
            interrupts.settle()

    code = run(main, "--debug" in sys.argv)
    interrupts.leave()
    settle()
    sys.exit(code)
