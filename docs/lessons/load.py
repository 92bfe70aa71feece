"""Send requests at a constant rate, and count what became of them.

    python docs/lessons/load.py [--seconds 10 | --while PID] [--rate 20] [--work MS] [--post]

Each request is sent when its time has come, whether those before have been answered or not, and
never twice. One is lost if it is not answered with 200.
"""

import argparse
import itertools
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import requests

LIMIT_S = 60


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--while", type=int, dest="pid", help="as long as this process runs")
    parser.add_argument("--rate", type=float, default=20, help="requests per second")
    parser.add_argument("--work", type=int, default=0, metavar="MS", help="what each takes")
    parser.add_argument("--post", action="store_true", help="POST instead of GET")
    given = parser.parse_args()
    if "URL" not in os.environ or given.rate <= 0:
        parser.error("it takes a rate above 0, and URL: . docs/lessons/begin.sh")
    url = f"{os.environ['URL']}/api/work?ms={given.work}"
    with ThreadPoolExecutor(200) as pool:
        answers = []
        began = time.monotonic()
        for number in itertools.count():
            late = number >= given.seconds * given.rate if given.pid is None else ended(given.pid)
            if late:
                break
            time.sleep(max(0, began + number / given.rate - time.monotonic()))
            answers.append(pool.submit(ask, url, "POST" if given.post else "GET"))
        lost = sum(not answer.result() for answer in answers)
    print(f"lost {lost} of {len(answers)}")


def ended(pid: int) -> bool:
    """Whether a process has ended, be it that nobody has asked yet how."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return True
    return state == "Z"


def ask(url: str, method: str) -> bool:
    """Whether it is answered with 200."""
    try:
        return requests.request(method, url, timeout=LIMIT_S).status_code == 200
    except requests.RequestException:
        return False


if __name__ == "__main__":
    main()
