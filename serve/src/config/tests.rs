use super::*;

#[test]
fn the_example_is_up_to_date() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/config.toml");
    let wanted = Config::example();
    if std::env::var_os("UPDATE_EXAMPLE").is_some() {
        std::fs::write(path, &wanted).unwrap();
    }
    let present = std::fs::read_to_string(path).unwrap();
    assert_eq!(present, wanted, "run this test with UPDATE_EXAMPLE=1");
}
