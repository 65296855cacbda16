"""DBOS on SQLite: one workflow, a durable step for each row."""

from dbos import DBOS, SetWorkflowID

SAVES, ROWS, IMPORTS = "1 row", 1_000, "dbos"
HOW = "a durable step for each row; it cannot be told otherwise"


def run(rows, step):
    """Run the workflow, or recover the one that was killed."""
    rows = list(rows)
    DBOS(
        config={
            "name": "bench",
            "system_database_url": "sqlite:///dbos.sqlite",
            "log_level": "ERROR",
            "application_version": "1",
        }
    )
    durable = DBOS.step(name="label")(step)

    @DBOS.workflow(name="all")
    def every_row(count):
        return [durable(row) for row in rows[:count]]

    DBOS.launch()
    with SetWorkflowID(f"rows-{len(rows)}"):
        every_row(len(rows))


def finish():
    """End its threads, which takes it as long however few the rows were."""
    DBOS.destroy()
