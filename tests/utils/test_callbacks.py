"""Registering and firing hooks."""

import threading

import pytest

from utils.callbacks import HOOKS, Callbacks


def test_there_are_yolov5s_19_hooks():
    assert len(HOOKS) == 19
    assert set(Callbacks().get_registered_actions()) == set(HOOKS)


def test_run_calls_in_order_with_the_arguments():
    calls = []
    callbacks = Callbacks()
    callbacks.register_action("on_train_epoch_end", "first", lambda epoch: calls.append(("first", epoch)))
    callbacks.register_action("on_train_epoch_end", callback=lambda epoch: calls.append(("second", epoch)))
    callbacks.run("on_train_epoch_end", epoch=3)
    callbacks.run("on_train_start")  # nobody listens
    assert calls == [("first", 3), ("second", 3)]


def test_registered_actions_of_one_hook():
    callbacks = Callbacks()
    callbacks.register_action("teardown", "bye", print)
    assert callbacks.get_registered_actions("teardown") == [{"name": "bye", "callback": print}]
    assert callbacks.get_registered_actions("on_train_end") == []


@pytest.mark.parametrize("method", ["register_action", "run", "get_registered_actions"])
def test_an_unknown_hook_names_the_nearest(method):
    with pytest.raises(ValueError, match="on_train_ends.*did you mean on_train_end?"):
        getattr(Callbacks(), method)("on_train_ends")


def test_a_callback_that_is_no_function_is_refused():
    with pytest.raises(TypeError, match="expected a function, found 5"):
        Callbacks().register_action("teardown", "bye", 5)


def test_thread_runs_beside_the_caller():
    callbacks, done, seen = Callbacks(), threading.Event(), []
    callbacks.register_action("teardown", callback=lambda: (seen.append(threading.current_thread()), done.set()))
    callbacks.run("teardown", thread=True)
    assert done.wait(10)
    assert seen[0] is not threading.current_thread()
