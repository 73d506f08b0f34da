//! One classifier learns from others.

use crate::bench::{Bench, small};

const STUDENT: &str = "--set data.train=flows.csv --set finetune.from=scratch";

fn distil(run: &str, more: &str) -> String {
    small("distil", run, &format!("{STUDENT} {more}"))
}

#[test]
fn a_student_learns_what_its_teachers_say() {
    let bench = Bench::trained();
    let (_, told) = bench.prints_and_tells(&distil("student", "--teacher run"));
    assert!(told.contains("240 rows to learn from what classifiers say of them: run"), "{told}");
    bench.prints(&small("finetune", "pupil", STUDENT));
    let verdicts = |run: &str| bench.prints(&format!("predict --run {run} --data flows.csv"));
    let student = verdicts("student");
    assert!(student != verdicts("pupil"), "the teacher has no say");
    // what a calibration has learned of rows held out is not taught
    bench.prints("calibrate --run run");
    bench.prints(&distil("student", "--teacher run"));
    assert!(student == verdicts("student"), "the calibration of a teacher is taught");
    bench.prints(&distil("student", "--teacher run pupil"));
    assert!(student != verdicts("student"), "the second teacher has no say");
    assert!(bench.read("student/manifest-finetune.json").contains("finetune.teachers"));

    // its rows without labels are learned, too
    bench.prints("synth --rows 50 --seed 9 --output more.csv");
    let (_, told) = bench.prints_and_tells(&distil("student", "--set data.unlabelled=more.csv --teacher run"));
    assert!(told.contains("290 rows to learn from"), "{told}");
    bench.prints("predict --run student --data flows.csv");
    bench.prints("evaluate --run student --data flows.csv");
}

#[test]
fn who_cannot_teach_is_said() {
    let bench = Bench::trained();
    bench.prints(&small("finetune", "refit", &format!("{STUDENT} --set finetune.refit=all")));
    bench.prints(&small("finetune", "kinds", &format!("{STUDENT} --set finetune.task=multiclass")));
    let errors: Vec<String> = [
        distil("run", "--teacher run"),
        distil("student", "--teacher nobody"),
        distil("student", "--teacher refit"),
        distil("student", "--teacher run --set seed=7"),
        distil("student", "--teacher run --set data.validation_fraction=0.3"),
        distil("student", "--teacher run --set finetune.task=multiclass --set finetune.mean_teacher={}"),
        distil("student", "--teacher run --set finetune.loss.label_smoothing=0.1 --set finetune.from=latents"),
        distil("student", ""),
    ]
    .iter()
    .map(|args| bench.fails(args))
    .collect();
    insta::assert_snapshot!(errors.join("\n"), @r#"
    exit code 2
    error: `finetune.teachers`: run: a classifier cannot be its own teacher: give the student another run folder in `--run`

    exit code 4
    error: nobody: no such run folder: run `nids-mixer pretrain --config FILE --run nobody` first

    exit code 2
    error: `finetune.teachers`: refit: it has learned the rows that are held out here (`finetune.refit: all`): take one without a refit

    exit code 2
    error: `finetune.teachers`: run: it was trained on another cut of the data, so that rows held out here may be among those that it has learned: train it with the same `data.train`, `data.validation_fraction` and `seed`

    exit code 2
    error: `finetune.teachers`: run: it was trained on another cut of the data, so that rows held out here may be among those that it has learned: train it with the same `data.train`, `data.validation_fraction` and `seed`

    exit code 2
    error: --set finetune.mean_teacher={}: `finetune.mean_teacher`: a mean teacher supports two classes only: set `finetune.task: binary`
    error: --set finetune.teachers=["run"]: `finetune.teachers`: teachers say how likely an attack is, not of which kind: set `finetune.task: binary`
    error: --set finetune.mean_teacher={}: `finetune.mean_teacher`: `finetune.teachers` already teaches on rows without labels: leave one of the two out

    exit code 2
    error: --set finetune.loss.label_smoothing=0.1: `finetune.loss.label_smoothing`: what teachers say is smooth already: leave it out, or `finetune.teachers`
    error: --set finetune.teachers=["run"]: `finetune.teachers`: teachers teach a network on features: set `finetune.from` to `pretrained` or `scratch`

    exit code 2
    error: the following required arguments were not provided:
      --teacher <DIR>...

    Usage: nids-mixer distil --teacher <DIR>... --config <FILE> --run <DIR> --set <KEY=VALUE>

    For more information, try '--help'.
    "#);
    // whoever knows kinds of attacks knows attacks
    bench.prints(&distil("student", "--teacher kinds"));
}
