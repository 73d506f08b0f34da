//! `export`: a trained network as an ONNX graph. What runtimes make of it: `scripts/check_runtimes.py`.

use crate::bench::{Bench, on_flows};

#[test]
fn a_trained_network_becomes_one_file_and_what_has_no_form_is_refused() {
    let bench = Bench::trained();
    bench.prints("export --run run --onnx model.onnx");
    let graph = bench.bytes("model.onnx");
    let has = |text: &str| graph.windows(text.len()).any(|bytes| bytes == text.as_bytes());
    for text in ["LayerNormalization", "LabelEncoder", "nids_mixer.threshold", "probability", "latents", "sbytes", "tcp"] {
        assert!(has(text), "{text}");
    }
    bench.prints("export --run run --onnx again.onnx");
    assert!(bench.bytes("again.onnx") == graph, "other bytes");
    bench.prints("export --run run --onnx codes.onnx --inputs codes");
    assert!(bench.bytes("codes.onnx") != graph);

    assert!(bench.fails("export --run run --onnx x.onnx --inputs text").contains("expected raw or codes"));
    assert!(bench.fails("export --run run --onnx run/model.safetensors").starts_with("exit code 2"));
    bench.prints(&on_flows("finetune", "--set finetune.from=latents"));
    let latents = bench.fails("export --run run --onnx x.onnx");
    bench.prints(&on_flows("finetune", "--set finetune.heads=[extra_trees]"));
    let heads = bench.fails("export --run run --onnx x.onnx");
    insta::assert_snapshot!(format!("{latents}\n{heads}"), @r"
    exit code 2
    error: run: `finetune.from: latents` has no ONNX form yet: export a run with `from: pretrained`, `frozen` or `scratch`

    exit code 2
    error: run: heads vote here, which an ONNX graph has no form for yet: export a run with a network alone
    ");
    assert!(!bench.path("x.onnx").exists());
}
