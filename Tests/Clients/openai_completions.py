#!/usr/bin/env python3
"""Drive a running Quire with the real `openai` Python client, as its users will (pip install openai).

    ./openai_completions.py http://127.0.0.1:8080/v1 [API_KEY]

Prints one line per check; exit code 1 if one fails.
"""
import sys
import threading

import openai

base = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8080/v1"
client = openai.OpenAI(base_url=base, api_key=sys.argv[2] if len(sys.argv) > 2 else "unused", max_retries=0)
failures = 0


def check(name, condition, detail=""):
    global failures
    failures += not condition
    print(("ok   " if condition else "FAIL ") + name, detail if not condition else "")


models = client.models.list().data
check("models.list", len(models) >= 1)
model = models[0].id
check("models.retrieve", client.models.retrieve(model).id == model)

whole = client.completions.create(model=model, prompt="It is a truth", max_tokens=24, temperature=0)
check("completion", len(whole.choices[0].text) > 0 and whole.usage.completion_tokens <= 24, whole)

pieces, last, usage = [], None, None
for chunk in client.completions.create(model=model, prompt="It is a truth", max_tokens=24, temperature=0, stream=True,
                                       stream_options={"include_usage": True}):
    if chunk.choices:
        pieces.append(chunk.choices[0].text)
        last = chunk.choices[0].finish_reason or last
    usage = chunk.usage or usage
check("stream equals whole", "".join(pieces) == whole.choices[0].text, pieces)
check("stream finish_reason", last == whole.choices[0].finish_reason, last)
check("stream usage", usage is not None and usage.completion_tokens == whole.usage.completion_tokens, usage)

many = client.completions.create(model=model, prompt=["She", "He"], max_tokens=8, n=3, temperature=0.8, seed=5)
check("prompts x n", [c.index for c in many.choices] == list(range(6)))
again = client.completions.create(model=model, prompt=["She", "He"], max_tokens=8, n=3, temperature=0.8, seed=5)
check("seed repeats", [c.text for c in many.choices] == [c.text for c in again.choices])
check("choices differ", len({c.text for c in many.choices[:3]}) > 1)

logs = client.completions.create(model=model, prompt="Mr. Darcy", max_tokens=6, logprobs=5, temperature=0).choices[0].logprobs
check("logprobs", len(logs.tokens) == len(logs.token_logprobs) == len(logs.top_logprobs) == len(logs.text_offset))
check("logprobs are sorted as sampled", all(abs(max(t.values()) - v) < 1e-6 for t, v in zip(logs.top_logprobs, logs.token_logprobs)))

text = whole.choices[0].text
stop = text[len(text) // 2:len(text) // 2 + 3]
stopped = client.completions.create(model=model, prompt="It is a truth", max_tokens=24, temperature=0, stop=[stop]).choices[0]
check("stop string", stopped.text == text[:text.index(stop)] and stopped.finish_reason == "stop", (stop, stopped))

cached = client.completions.create(model=model, prompt="word " * 200, max_tokens=1)
cached = client.completions.create(model=model, prompt="word " * 200, max_tokens=1)
check("cached tokens", cached.usage.prompt_tokens_details.cached_tokens > 0, cached.usage)

for name, arguments, kind in [
    ("unknown model", dict(model="no-such-model", prompt="x"), openai.NotFoundError),
    ("temperature out of range", dict(model=model, prompt="x", temperature=9), openai.BadRequestError),
    ("too many stops", dict(model=model, prompt="x", stop=list("abcde")), openai.BadRequestError),
    ("prompt too long", dict(model=model, prompt="word " * 400_000), openai.BadRequestError),
]:
    try:
        client.completions.create(**arguments)
        check(name, False, "no error")
    except openai.APIStatusError as error:
        check(name, isinstance(error, kind) and isinstance(error.body, dict) and bool(error.body.get("message")), error)

stream = client.completions.create(model=model, prompt="A client that leaves", max_tokens=400, stream=True)
next(iter(stream))
stream.close()
texts = [None] * 8


def one(i):
    texts[i] = client.completions.create(model=model, prompt="It is a truth", max_tokens=24, temperature=0).choices[0].text


threads = [threading.Thread(target=one, args=(i,)) for i in range(8)]
[t.start() for t in threads]
[t.join() for t in threads]
check("eight at once, same text", texts == [text] * 8, texts)
sys.exit(1 if failures else 0)
