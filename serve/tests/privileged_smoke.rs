//! First light.
mod support;
use support::Bench;

privileged! {
    fn privileged_first_light() {
        let bench = Bench::new("");
        assert!(bench.list(&[]).unwrap().is_empty());
        bench.layer("one", "", |path| std::fs::write(path.join("a"), "1").unwrap());
        bench.layer("two", "one", |path| std::fs::write(path.join("b"), "2").unwrap());
        let mounts = bench.view("v", "two").unwrap();
        let mounted = bench.mount(&mounts, "v");
        assert_eq!(std::fs::read_to_string(mounted.path().join("a")).unwrap(), "1");
        drop(mounted);
        eprintln!("{:?} {}", mounts, bench.log());
        bench.remove("v").unwrap();
        bench.cleanup().unwrap();
    }
}
