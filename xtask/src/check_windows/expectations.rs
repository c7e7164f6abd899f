//! What Wine cannot do, test by test. A test that is listed must exist and fail: the list says what is so, and shrinks with
//! every Wine that can do more.

/// A test that fails under Wine.
pub(super) struct Expectation {
    /// As [`super::test_programs`] names programs.
    pub(super) program: &'static str,
    /// The test's whole name.
    pub(super) test: &'static str,
    /// What it is that Wine cannot.
    #[allow(dead_code, reason = "for those who read the list")]
    pub(super) reason: &'static str,
}

const fn expect(program: &'static str, test: &'static str, reason: &'static str) -> Expectation {
    Expectation { program, test, reason }
}

/// Wine 8, Debian 12's.
pub(super) const FAILS_UNDER_WINE: &[Expectation] = &[
    expect("cimfs", "files::tests::a_directory_is_a_set", OPEN_FILES_KEEP_THEIR_NAME),
    expect(
        "layer",
        "archive::tests::docker_archives",
        "CreateSymbolicLink says that it has made a link and has made none, so unpacking one with tar does not find it",
    ),
    expect(
        "sys",
        "file::tests::a_lock_is_not_at_a_path_whose_file_was_removed",
        OPEN_FILES_KEEP_THEIR_NAME,
    ),
];

const OPEN_FILES_KEEP_THEIR_NAME: &str = "a file that is open keeps its name when it is removed: Wine has no \
    FILE_DISPOSITION_POSIX_SEMANTICS before version 10 (error 87), Windows since 10.0.17763";
