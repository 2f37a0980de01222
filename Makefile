# Every target is one script, so that a laptop and CI cannot differ.
.PHONY: setup run test check bench bench-mlx bench-peers

setup: ; @scripts/setup $(ARGS)
run:   ; @scripts/run $(ARGS)
test:  ; @scripts/test $(ARGS)
check: ; @scripts/setup dev && scripts/check
bench: ; @scripts/bench $(ARGS)
bench-mlx: ; @scripts/bench-mlx $(ARGS)
bench-peers: ; @scripts/bench-peers $(ARGS)
