"""Rung on one thread, heard on the event loop."""

import asyncio
import threading

from pitcrew_runtime.bell import Bell


def test_everything_is_called_on_the_loop_and_in_order() -> None:
    async def hear() -> tuple[list[int], set[int]]:
        heard: list[int] = []
        threads: set[int] = set()
        done = asyncio.Event()
        bell = Bell(asyncio.get_running_loop())

        def call(number: int) -> None:
            heard.append(number)
            threads.add(threading.get_ident())

        def ring() -> None:
            for number in range(200):
                bell.ring(call, number)
            bell.ring(done.set)
            bell.close()

        ringer = threading.Thread(target=ring)
        ringer.start()
        await done.wait()
        ringer.join()
        return heard, threads

    heard, threads = asyncio.run(asyncio.wait_for(hear(), 60))
    assert heard == list(range(200))
    assert threads == {threading.get_ident()}


def test_one_that_raises_keeps_no_other() -> None:
    async def hear() -> tuple[list[int], list[object]]:
        heard: list[int] = []
        told: list[object] = []
        done = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: told.append(context.get("exception")))
        bell = Bell(loop)
        fault = ValueError("a callback's own")

        def fail() -> None:
            raise fault

        for callback, arguments in ((heard.append, (1,)), (fail, ()), (heard.append, (2,))):
            bell.ring(callback, *arguments)
        bell.ring(done.set)
        await done.wait()
        bell.close()
        return heard, [one is fault for one in told]

    heard, told = asyncio.run(asyncio.wait_for(hear(), 60))
    assert (heard, told) == ([1, 2], [True])


def test_nobody_hears_after_the_loop_is_gone() -> None:
    loop = asyncio.new_event_loop()
    bell = Bell(loop)
    loop.close()
    bell.ring(print, "never")
    bell.close()
