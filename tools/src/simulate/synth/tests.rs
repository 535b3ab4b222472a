use super::*;

fn plan(specimen: Specimen, dose: f64) -> SynthPlan {
    let scan = NavShape { height: 40, width: 48 };
    let detector = SigShape { height: 64, width: 64 };
    SynthPlan { scan, detector, dose, specimen, seed: 5 }
}

/// Sum inside or outside a radius around the centre of the detector, in disk radii.
fn ring(synthesis: &Synthesis, counts: &[u32], inner: f64, outer: f64) -> u64 {
    let shape = synthesis.plan().detector;
    let (cy, cx) = ((f64::from(shape.height) - 1.0) / 2.0, (f64::from(shape.width) - 1.0) / 2.0);
    let within = |index: usize| {
        let (y, x) = (index / shape.width as usize, index % shape.width as usize);
        let radii = (y as f64 - cy).hypot(x as f64 - cx) / synthesis.disk_radius_px();
        (inner..outer).contains(&radii)
    };
    counts.iter().enumerate().filter(|&(index, _)| within(index)).map(|(_, &count)| u64::from(count)).sum()
}

/// Centre of mass of the counts relative to the centre of the detector, `(y, x)` in pixels.
fn centre_of_mass(synthesis: &Synthesis, counts: &[u32]) -> (f64, f64) {
    let shape = synthesis.plan().detector;
    let (mut sum, mut sum_y, mut sum_x) = (0.0, 0.0, 0.0);
    for (index, &count) in counts.iter().enumerate() {
        let count = f64::from(count);
        sum += count;
        sum_y += count * ((index / shape.width as usize) as f64 - (f64::from(shape.height) - 1.0) / 2.0);
        sum_x += count * ((index % shape.width as usize) as f64 - (f64::from(shape.width) - 1.0) / 2.0);
    }
    (sum_y / sum, sum_x / sum)
}

/// Pearson's correlation.
fn correlation(pairs: &[(f64, f64)]) -> f64 {
    let n = pairs.len() as f64;
    let mean = |pick: fn(&(f64, f64)) -> f64| pairs.iter().map(pick).sum::<f64>() / n;
    let (ma, mb) = (mean(|p| p.0), mean(|p| p.1));
    let moment = |f: &dyn Fn(&(f64, f64)) -> f64| pairs.iter().map(f).sum::<f64>();
    let cross = moment(&|p| (p.0 - ma) * (p.1 - mb));
    cross / (moment(&|p| (p.0 - ma).powi(2)) * moment(&|p| (p.1 - mb).powi(2))).sqrt()
}

/// I1: equal plans give equal frames in any order; another seed gives another scan.
#[test]
fn frames_depend_on_the_plan_only() {
    let draw = |seed: u64, order: &[u64]| {
        let synthesis = Synthesis::new(SynthPlan { seed, ..plan(Specimen::Crystal, 300.0) }).expect("valid plan");
        let mut frames = vec![vec![0; 64 * 64]; 3];
        for &p in order {
            synthesis.draw(p * 600, &mut frames[p as usize]);
        }
        frames
    };
    assert_eq!(draw(1, &[0, 1, 2]), draw(1, &[2, 0, 1]));
    assert_ne!(draw(1, &[0, 1, 2]), draw(2, &[0, 1, 2]));
    let frames = draw(1, &[0, 1, 2]);
    assert_ne!(frames[0], frames[1]);
}

/// The mean number of electrons is the dose less what misses the detector, and most of them lie in the disk.
#[test]
fn dose_is_kept() {
    let synthesis = Synthesis::new(plan(Specimen::Particles, 800.0)).expect("valid plan");
    let mut counts = vec![0; 64 * 64];
    let (mut caught, mut inside) = (0, 0);
    for position in 0..synthesis.frame_count() {
        caught += synthesis.draw(position, &mut counts);
        assert!(position > 0 || counts.iter().map(|&c| u64::from(c)).sum::<u64>() == caught);
        inside += ring(&synthesis, &counts, 0.0, 1.15);
    }
    let mean = caught as f64 / synthesis.frame_count() as f64;
    assert!((0.9 * 800.0..800.0).contains(&mean), "{mean}");
    assert!(inside as f64 > 0.6 * caught as f64);
}

/// I2: centres of mass follow the gradient with its sign, on both axes, for both specimens.
#[test]
fn centres_of_mass_follow_the_gradient() {
    for specimen in [Specimen::Crystal, Specimen::Particles] {
        let synthesis = Synthesis::new(plan(specimen, 2000.0)).expect("valid plan");
        let mut counts = vec![0; 64 * 64];
        let (mut along_y, mut along_x) = (Vec::new(), Vec::new());
        for position in 0..synthesis.frame_count() {
            let (slope_y, slope_x) = synthesis.gradient(position);
            if slope_y.hypot(slope_x) < 0.25 {
                continue;
            }
            synthesis.draw(position, &mut counts);
            let (y, x) = centre_of_mass(&synthesis, &counts);
            along_y.push((slope_y, y));
            along_x.push((slope_x, x));
        }
        assert!(along_y.len() > 40, "{specimen}: {}", along_y.len());
        let (r_y, r_x) = (correlation(&along_y), correlation(&along_x));
        assert!(r_y > 0.7 && r_x > 0.7, "{specimen}: {r_y} {r_x}");
    }
}

/// I3: bright field and dark field both have contrast beyond noise, and they are complementary.
#[test]
fn virtual_images_have_contrast() {
    for specimen in [Specimen::Crystal, Specimen::Particles] {
        let synthesis = Synthesis::new(plan(specimen, 2000.0)).expect("valid plan");
        let mut counts = vec![0; 64 * 64];
        let mut images = Vec::new();
        for position in 0..synthesis.frame_count() {
            synthesis.draw(position, &mut counts);
            let bright = ring(&synthesis, &counts, 0.0, 1.0) as f64;
            images.push((bright, ring(&synthesis, &counts, 1.6, 2.9) as f64));
        }
        let n = images.len() as f64;
        for (name, image) in
            [("bright", images.iter().map(|p| p.0).collect::<Vec<_>>()), ("dark", images.iter().map(|p| p.1).collect())]
        {
            let mean = image.iter().sum::<f64>() / n;
            let variance = image.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n;
            assert!(variance > 4.0 * mean, "{specimen} {name}: variance {variance}, mean {mean}");
        }
        assert!(correlation(&images) < -0.5, "{specimen}");
    }
}

/// Plans that cannot be drawn are refused; empty and tiny ones work.
#[test]
fn plans_are_checked() {
    let small = SynthPlan { scan: NavShape { height: 1, width: 1 }, ..plan(Specimen::Particles, 0.0) };
    let synthesis = Synthesis::new(small).expect("one position without electrons");
    assert_eq!(synthesis.draw(0, &mut vec![7; 64 * 64]), 0);
    assert!(Synthesis::new(SynthPlan { scan: NavShape { height: 0, width: 9 }, ..small }).is_err());
    assert!(Synthesis::new(SynthPlan { dose: f64::NAN, ..small }).is_err());
    let dot = SynthPlan { detector: SigShape { height: 1, width: 1 }, dose: 50.0, ..small };
    assert!(Synthesis::new(dot).is_ok_and(|synthesis| synthesis.draw(3, &mut [0]) > 0));
}
