# The same as ./x, for those who have just.

# build, and run scenarios
run *files:
    ./x run {{files}}

# every test: unit, end to end
test *args:
    ./x test {{args}}

# formatting, clippy, documentation
lint:
    ./x lint

# the built-in data plane and Envoy side by side (BLESS=1 writes docs/conformance.md)
conformance *args:
    ./x conformance {{args}}

# which rules the shipped scenarios meet: writes docs/rule-coverage.md
coverage:
    ./x coverage

# the article beside the kernel, in every mode, back end and family: writes docs/six-types.md
six-types:
    ./x six-types

# the benchmarks
bench *args:
    ./x bench {{args}}

# accept changed snapshots
bless:
    INSTA_UPDATE=always ./x test

# licences, bans and sources of all dependencies (cargo install cargo-deny)
deny:
    cargo deny check licenses bans sources

# fuzz a parser: fuzz/README.md lists the targets (cargo install cargo-fuzz); arguments are libFuzzer's
fuzz target *args:
    RUSTC_BOOTSTRAP=1 cargo fuzz run {{target}} -- -rss_limit_mb=2048 {{args}}
