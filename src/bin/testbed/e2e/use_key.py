"""Uses a delivered key as a service does: OpenAI's own SDK, told by the environment, as its manual says.

Appends the same lines of JSON as the prober: the key it begins to use, each call that was refused or lost, and every second
how many were accepted. No line holds more of the key than its last four characters. Ends when it is told to (SIGTERM).
"""

import datetime
import json
import os
import signal
import sys
import time

import openai

PACE = 0.1
TOLD_EVERY = 1.0
MODEL = "gpt-4o-mini"

ended = False


def end(*_):
    global ended
    ended = True


def main():
    signal.signal(signal.SIGTERM, end)
    pod = os.environ["HOSTNAME"]
    last_four = os.environ["OPENAI_API_KEY"][-4:]
    with open(os.path.join(sys.argv[1], pod + ".jsonl"), "a", encoding="utf-8") as file:

        def line(event, **more):
            now = datetime.datetime.now(datetime.timezone.utc)
            time_text = now.isoformat(timespec="milliseconds").replace("+00:00", "Z")
            file.write(json.dumps({"event": event, "pod": pod, "time": time_text, **more}) + "\n")
            file.flush()

        line("key", lastFour=last_four)
        client = openai.OpenAI()
        accepted, told = 0, 0.0
        while not ended:
            begun = time.monotonic()
            if begun - told >= TOLD_EVERY:
                line("calls", accepted=accepted)
                told = begun
            try:
                client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "ping"}])
                accepted += 1
            except openai.APIStatusError as error:
                line("refused", lastFour=last_four, status=error.status_code)
            except openai.APIConnectionError as error:
                line("lost", why=str(error))
            time.sleep(max(0.0, PACE - (time.monotonic() - begun)))
        line("calls", accepted=accepted)


main()
