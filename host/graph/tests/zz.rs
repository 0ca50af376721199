#[path = "it/support.rs"] mod support;
#[test] fn zz() {
    let pool = support::pool();
    for (n, b) in [(20usize,2usize),(50,2),(50,3),(100,2),(100,3),(150,3),(300,2),(1000,1)] {
        let nodes: Vec<Vec<usize>> = (0..n).map(|node| (1..=b).filter_map(|d| node.checked_sub(d * d * (n/20).max(1))).collect()).collect();
        let graph = support::numbered(&nodes, &pool).unwrap();
        let t = std::time::Instant::now();
        let s = docket_graph::svg(&graph);
        println!("{n} {b} {:?} {}", t.elapsed(), s.len());
    }
}
