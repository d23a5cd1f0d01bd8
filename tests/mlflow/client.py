"""What a Python user does with the models of an MLflow server, for the tests: reads one, or logs some. Prints one line of JSON.

    client.py load ROWS URI...       each URI's scores of the rows, by pyfunc and by mlflow.lightgbm
    client.py log NAME-PREFIX        logs a Booster, a Booster registered from its run, and an LGBMClassifier

Numbers are texts, so that no reader of JSON rounds them. The server is the one of MLFLOW_TRACKING_URI.
"""

import json
import sys

import lightgbm
import mlflow
import numpy
import pandas


def texts(numbers):
    return [repr(float(number)) for number in numbers]


def load(rows_file, uris):
    with open(rows_file) as file:
        test = json.load(file)
    rows = pandas.DataFrame([[float(number) for number in row] for row in test["rows"]], columns=test["features"])
    answers = []
    for uri in uris:
        pyfunc = mlflow.pyfunc.load_model(uri)
        inputs = [(column.name, column.type.name, column.required) for column in pyfunc.metadata.signature.inputs]
        booster = mlflow.lightgbm.load_model(uri)
        example = pyfunc.input_example
        answers.append(
            {
                "pyfunc": texts(pyfunc.predict(rows)),
                "lightgbm": texts(booster.predict(rows)),
                "example": texts(pyfunc.predict(example.astype("float64"))),
                "inputs": inputs,
                "model_id": pyfunc.metadata.model_id,
                "run_id": pyfunc.metadata.run_id,
                "threshold": (pyfunc.metadata.metadata or {}).get("threshold"),
            }
        )
    return answers


def log(prefix):
    random = numpy.random.default_rng(7)
    rows = pandas.DataFrame(random.normal(size=(2000, 3)), columns=["amount", "hour", "velocity"])
    labels = (rows["amount"] + random.normal(size=len(rows)) > 1.5).astype(int)
    parameters = {"objective": "binary", "num_leaves": 15, "verbose": -1, "seed": 1, "num_threads": 1}
    booster = lightgbm.train(parameters, lightgbm.Dataset(rows, labels), num_boost_round=20)
    classifier = lightgbm.LGBMClassifier(n_estimators=5, verbose=-1, n_jobs=1).fit(rows, labels)
    mlflow.set_experiment(prefix)
    example = rows.head(3)
    with mlflow.start_run() as run:
        mlflow.lightgbm.log_model(booster, name="m", registered_model_name=f"{prefix}-booster", input_example=example)
        mlflow.register_model(f"runs:/{run.info.run_id}/m", f"{prefix}-of-run")
        mlflow.lightgbm.log_model(classifier, name="c", registered_model_name=f"{prefix}-classifier")
    some = rows.head(50)
    return {
        "rows": [texts(row) for row in some.to_numpy()],
        "features": list(rows.columns),
        "scores": texts(booster.predict(some)),
    }


if __name__ == "__main__":
    command, *arguments = sys.argv[1:]
    answer = load(arguments[0], arguments[1:]) if command == "load" else log(arguments[0])
    print(json.dumps(answer))
