"""The source of a process that moves money between the accounts of a project's database."""

WRITER = """
import random, signal, sqlite3, sys, time
path, journal_mode, pause = sys.argv[1], sys.argv[2], float(sys.argv[3])
stop = False
def end(*_):
    global stop
    stop = True
signal.signal(signal.SIGTERM, end)
db = sqlite3.connect(path, timeout=60, isolation_level=None)
db.execute(f"PRAGMA journal_mode = {journal_mode}")
done = 0
while not stop:
    a, b = random.sample(range(50), 2)  # the accounts that Project makes
    amount = random.randint(1, 5)
    db.execute("BEGIN IMMEDIATE")
    db.execute("UPDATE accounts SET balance = balance - ? WHERE id = ?", (amount, a))
    db.execute("UPDATE accounts SET balance = balance + ? WHERE id = ?", (amount, b))
    db.execute("INSERT INTO ledger(a, b, amount) VALUES (?, ?, ?)", (a, b, amount))
    db.execute("COMMIT")
    done += 1
    if done == 1:
        print("writing", flush=True)
    time.sleep(pause)
print(done, flush=True)
"""
