"""A device whose clock is wrong joins rounds all the same: its clock decides nothing but a validity."""

import os
import shutil
import subprocess
import sys

import pytest

from .conftest import questions
from .test_network import AGENT, HERE

SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>
static long offset(void) { return atol(getenv("CLOCK_OFFSET")); }
int clock_gettime(clockid_t id, struct timespec *ts) {
    int (*real)(clockid_t, struct timespec *) = dlsym(RTLD_NEXT, "clock_gettime");
    int code = real(id, ts);
    if (id == CLOCK_REALTIME) ts->tv_sec += offset();
    return code;
}
time_t time(time_t *out) {
    struct timespec ts;
    clock_gettime(CLOCK_REALTIME, &ts);
    if (out) *out = ts.tv_sec;
    return ts.tv_sec;
}
int gettimeofday(struct timeval *tv, void *zone) {
    struct timespec ts;
    clock_gettime(CLOCK_REALTIME, &ts);
    tv->tv_sec = ts.tv_sec;
    tv->tv_usec = ts.tv_nsec / 1000;
    return 0;
}
"""


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc for a clock of its own")
@pytest.mark.parametrize("offset", [-3600, 3600, -20 * 86_400], ids=["behind", "ahead", "weeks-behind"])
def test_a_device_with_a_wrong_clock_completes_rounds(site, tmp_path, offset):
    (tmp_path / "shim.c").write_text(SHIM)
    shim = tmp_path / "shim.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", shim, tmp_path / "shim.c", "-ldl"], check=True)
    environment = {**os.environ, "LD_PRELOAD": str(shim), "CLOCK_OFFSET": str(offset)}
    told = subprocess.check_output(
        [sys.executable, "-c", "import time; print(time.time())"], env=environment, text=True
    )
    own = subprocess.check_output([sys.executable, "-c", "import time; print(time.time())"], text=True)
    assert abs(float(told) - float(own) - offset) < 60
    home = tmp_path / "wrong"
    home.mkdir()
    site.identity("wrong").save(home)
    command = [sys.executable, "-c", AGENT, str(home), f"127.0.0.1:{site.port}", str(HERE)]
    with (tmp_path / "agent.log").open("wb") as log:
        agent = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        site.grid.gather(1, 30)
        (reply,) = site.grid.send_and_receive(questions(site.grid))
        assert not reply.has_error(), (tmp_path / "agent.log").read_text()
    finally:
        agent.terminate()
        agent.wait(10)
