"""BLAS on one thread while something computes, and as the host had it afterwards."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from threadpoolctl import threadpool_info, threadpool_limits

from onnx_udfc import compress
from onnx_udfc.options import Options
from onnx_udfc.runtime.blas import one_thread
from tests.small_graphs import small_model

WIDE = """g (float[N, 3, 10, 10] x, float[64, 3, 3, 3] W0, float[64] B0, float[96, 64, 3, 3] W1, float[10, 96, 1, 1] W2)
    => (float[N, 10, 1, 1] y) {
    a = Conv<pads=[1, 1, 1, 1]>(x, W0, B0) b = Elu(a) c = Conv<pads=[1, 1, 1, 1]>(b, W1) d = Relu(c)
    e = GlobalAveragePool(d) y = Conv(e, W2) }"""


def threads() -> list[int]:
    return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]


def test_the_last_to_leave_restores_what_the_host_had() -> None:
    with threadpool_limits(2, user_api="blas"):
        before = threads()
        first, second = one_thread(), one_thread()
        first.__enter__()
        assert set(threads()) == {1}
        second.__enter__()
        first.__exit__(None, None, None)
        assert set(threads()) == {1}
        second.__exit__(None, None, None)
        assert threads() == before


def test_any_thread_may_enter_and_leave() -> None:
    first, second = one_thread(), one_thread()
    with (
        threadpool_limits(2, user_api="blas"),
        ThreadPoolExecutor(1) as pool,
    ):  # as a host does
        pool.submit(first.__enter__).result()
        assert set(threads()) == {1}
        second.__enter__()
        pool.submit(first.__exit__, None, None, None).result()
        assert set(threads()) == {1}
        second.__exit__(None, None, None)
        assert set(threads()) == {2}


def test_compressions_side_by_side_give_what_each_gives_alone() -> None:
    asked = [Options(prune=0.5, bits=4, images=8), Options(bits=4, images=8, threads=3), Options(prune=0.3, images=8)]
    model = small_model(WIDE)

    def made(options: Options) -> bytes:
        return bytes(compress(model, options).model.SerializeToString(deterministic=True))

    with threadpool_limits(2, user_api="blas"):
        before = threads()
        alone = [made(options) for options in asked]
        start = threading.Barrier(len(asked))

        def together(options: Options) -> bytes:
            start.wait()
            return made(options)

        with ThreadPoolExecutor(len(asked)) as pool:
            assert list(pool.map(together, asked)) == alone
        assert threads() == before


def test_any_number_of_threads_gives_the_same_bytes() -> None:
    model = small_model(WIDE)
    for asked in (Options(prune=0.5, bits=4, images=8), Options(bits=8, activations=8, images=8)):
        made = []
        for count in (1, 2, 3, None):
            options = Options(
                prune=asked.prune, bits=asked.bits, activations=asked.activations, images=8, threads=count
            )
            made.append(compress(model, options).model.SerializeToString(deterministic=True))
        assert len(set(made)) == 1
